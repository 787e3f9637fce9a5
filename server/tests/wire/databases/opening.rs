//! Databases come into memory when they are used, and leave it again.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use dormouse::admin::operations::{self, NewDatabase, NewToken};
use dormouse::databases::RELEASE_AFTER_MS;

use crate::node::Bench;

fn make(bench: &Bench, name: &str) -> String {
    let new = NewDatabase {
        name: Some(name.to_owned()),
        ttl_ms: None,
        settings: Default::default(),
        token: NewToken::plain(),
        is_unclaimed: false,
    };
    bench.runtime.block_on(operations::create(&bench.node, new)).unwrap().1.text
}

fn release(bench: &Bench, after_ms: u64) {
    // Workers have the system's clock.
    let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64 + after_ms;
    bench.runtime.block_on(bench.node.tenants.release_unused(now_ms));
}

#[test]
fn a_database_that_sleeps_leaves_memory_and_comes_back_as_it_was() {
    let bench = Bench::new(&[]);
    let tenants = &bench.node.tenants;
    let token = make(&bench, "shop");
    assert!(tenants.of_name("shop").is_none(), "nothing runs for a new database");
    let mut client = bench.connect();
    client.check(&format!("AUTH {token}"), "+OK\r\n");
    client.check("SET a 1", "+OK\r\n");
    let requests = || bench.totals("shop")[dormouse::metering::Meter::Requests];
    // It is awake, and has a client.
    release(&bench, 10 * RELEASE_AFTER_MS);
    assert!(tenants.of_name("shop").is_some());
    let shop = bench.tenant("shop");
    bench.runtime.block_on(shop.database.sleep()).unwrap();
    drop(shop);
    release(&bench, 10 * RELEASE_AFTER_MS);
    assert!(tenants.of_name("shop").is_some(), "a client is connected");
    client.check("PING", "+PONG\r\n");
    drop(client);
    // The worker has yet to notice.
    while tenants.of_name("shop").is_some() {
        release(&bench, 10 * RELEASE_AFTER_MS);
    }
    // A clock that is set back makes nothing old.
    let mut client = bench.connect();
    client.check(&format!("AUTH {token}"), "+OK\r\n");
    client.check("GET a", "$1\r\n1\r\n");
    assert!(requests() >= 4, "{} requests are not forgotten", requests());
    drop(client);
    bench.runtime.block_on(bench.tenant("shop").database.sleep()).unwrap();
    bench.runtime.block_on(tenants.release_unused(0));
    assert!(tenants.of_name("shop").is_some());
}

#[test]
fn a_database_is_opened_once_whoever_comes() {
    let bench = Bench::new(&[]);
    make(&bench, "shop");
    let opened: Vec<_> = bench
        .runtime
        .block_on(async { futures::future::join_all((0..50).map(|_| bench.node.tenants.opened("shop"))).await });
    let first = opened[0].as_ref().unwrap();
    assert!(opened.iter().all(|other| Arc::ptr_eq(other.as_ref().unwrap(), first)));
    assert!(bench.runtime.block_on(bench.node.tenants.opened("none")).is_none());
}

/// A client may wait for a branch, and enter as soon as the directory has it.
#[test]
fn a_branch_is_opened_once_while_it_is_made() {
    let bench = Bench::new(&[]);
    make(&bench, "shop");
    let tenants = &bench.node.tenants;
    let shop = bench.runtime.block_on(tenants.opened("shop")).unwrap();
    for number in 0..50 {
        let name = format!("shop.b{number}");
        let (node, awaited) = (Arc::clone(&bench.node), name.clone());
        let waits = bench.runtime.spawn(async move {
            loop {
                if let Some(found) = node.tenants.opened(&awaited).await {
                    return found;
                }
                tokio::task::yield_now().await;
            }
        });
        bench.runtime.block_on(tenants.branch(&shop, &name, None, None)).unwrap();
        let made = tenants.of_name(&name).unwrap();
        let found = bench.runtime.block_on(waits).unwrap();
        assert!(Arc::ptr_eq(&found, &made) && Arc::ptr_eq(&made, &tenants.of_name(&name).unwrap()), "{name}");
    }
}

#[test]
fn a_branch_has_the_limits_of_its_owner_whether_that_is_in_memory_or_not() {
    let bench = Bench::new(&[]);
    make(&bench, "shop");
    let tenants = &bench.node.tenants;
    let shop = bench.runtime.block_on(tenants.opened("shop")).unwrap();
    bench.runtime.block_on(tenants.branch(&shop, "pr-1", None, None)).unwrap();
    bench.runtime.block_on(tenants.branch(&shop, "pr-2", None, None)).unwrap();
    let branches = ["shop.pr-1", "shop.pr-2"].map(|name| tenants.of_name(name).unwrap());
    bench.runtime.block_on(shop.database.sleep()).unwrap();
    drop(shop);
    release(&bench, 10 * RELEASE_AFTER_MS);
    assert!(tenants.of_name("shop").is_none());
    let set = |name: &str, value: Option<&str>| {
        let settings = [("max-memory".into(), value.map(Into::into))].into();
        bench.runtime.block_on(operations::set(&bench.node, name, settings, None, false)).unwrap();
        branches.each_ref().map(|branch| branch.limits().max_memory)
    };
    assert_eq!(set("shop", Some("1mb")), [1 << 20, 1 << 20]);
    assert_eq!(set("shop.pr-2", Some("2mb")), [1 << 20, 2 << 20]);
    assert_eq!(set("shop", Some("3mb")), [3 << 20, 2 << 20]);
    assert_eq!(set("shop.pr-2", None), [3 << 20, 3 << 20]);
}

/// Its deletion may have to wait behind others.
#[test]
fn a_database_that_gets_more_time_is_not_deleted() {
    let bench = Bench::new(&[]);
    let new = NewDatabase {
        name: Some("preview".to_owned()),
        ttl_ms: Some(1000),
        settings: Default::default(),
        token: NewToken::plain(),
        is_unclaimed: false,
    };
    let (record, _) = bench.runtime.block_on(operations::create(&bench.node, new)).unwrap();
    let (tenants, end) = (&bench.node.tenants, record.expires_ms.unwrap());
    let set = |ttl_ms| {
        bench.runtime.block_on(operations::set(&bench.node, "preview", Default::default(), Some(ttl_ms), false))
    };
    let reserve = |now_ms| bench.runtime.block_on(tenants.reserve_ended("preview", now_ms));
    assert!(reserve(end - 1).is_none());
    let reserved = reserve(end);
    assert!(reserved.is_some());
    let refused = set(None).unwrap_err().to_string();
    assert_eq!(refused, "database `preview` is just being made or deleted");
    drop(reserved);
    set(None).unwrap();
    assert!(reserve(end).is_none());
}

/// Else a tenant could tell by the time which databases there are.
#[test]
fn a_tenant_opens_no_database_of_others() {
    let bench = Bench::new(&[]);
    let (token, _) = (make(&bench, "shop"), make(&bench, "blog"));
    let mut client = bench.connect();
    client.check(&format!("AUTH {token}"), "+OK\r\n");
    for name in ["blog", "blog.pr-1", "none"] {
        let unknown = "-ERR no branch of that name: DORMOUSE DATABASES shows those of this database\r\n";
        client.check(&format!("DORMOUSE DELETE {name}"), unknown);
    }
    assert!(bench.node.tenants.of_name("blog").is_none());
}

#[test]
fn a_stranger_opens_nothing() {
    let bench = Bench::new(&["dm_blog_x"]);
    make(&bench, "shop");
    let wrong = "-WRONGPASS invalid username-password pair or user is disabled.\r\n";
    bench.connect().check("AUTH dm_shop_0123456789012345678901234567890123456789", wrong);
    assert!(bench.node.tenants.of_name("shop").is_none());
    assert!(bench.node.tenants.look_time().is_zero());
    // Only to look at its users, if somebody claims to be one. Other refusals then take as long.
    bench.connect().check("AUTH app dm_shop_guess", wrong);
    assert!(bench.node.tenants.of_name("shop").is_some());
    assert!(!bench.node.tenants.look_time().is_zero());
}

#[test]
fn a_store_that_refuses_makes_nothing() {
    use dormouse_storage::store::{StoreFault, StoreRequest};

    let bench = Bench::new(&[]);
    make(&bench, "shop");
    bench.faults.fail(StoreRequest::Put, 0, 1, StoreFault::Full);
    let new = NewDatabase {
        name: Some("blog".to_owned()),
        ttl_ms: None,
        settings: Default::default(),
        token: NewToken::plain(),
        is_unclaimed: false,
    };
    let refused = bench.runtime.block_on(operations::create(&bench.node, new)).unwrap_err();
    assert!(refused.to_string().contains("no space left"), "{refused}");
    assert!(!bench.node.tenants.has_name("blog"));
    make(&bench, "blog");
}
