//! Owners of databases in a store: of branches that version 0.1.0 made without an owner in their names, and of
//! databases that no token names.

use std::ffi::OsString;
use std::sync::Arc;

use dormouse::cli::Invocation;
use dormouse::commands::{COUNTED, SUBJECTS};
use dormouse::config::Settings;
use dormouse::databases::{Removal, Tenants};
use dormouse::rights::Rights;
use dormouse_shard::database::{Database, Engine};
use dormouse_shard::lane::Lane;
use dormouse_storage::directory::DirectoryWriters;
use dormouse_storage::store::{FaultyStore, Store};
use tokio::runtime::Runtime;

struct Bench {
    runtime: Runtime,
    store: Arc<Store>,
    lane: Lane,
}

impl Bench {
    fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let store = FaultyStore::new(Arc::new(object_store::memory::InMemory::new()));
        Self { runtime, store: Arc::new(Store::over(store, "memory://")), lane: Lane::new("lane", 1, 0).unwrap() }
    }

    /// Another process.
    fn engine(&self) -> Engine {
        Engine {
            store: Arc::clone(&self.store),
            lane: self.lane.clone(),
            loader: self.lane.clone(),
            patient: self.lane.clone(),
            background: self.runtime.handle().clone(),
            clock: || 1_700_000_000_000,
            writer: 1,
            log: None,
            recovered: Arc::default(),
            give_back: || {},
            health: Arc::default(),
            claims: None,
        }
    }

    /// Makes the database `name` as version 0.1.0 did: any name, from any source.
    fn make(&self, source: &str, name: &str) {
        self.runtime.block_on(async {
            let source = Database::open(source, 42, self.engine()).await;
            source.branch(name, None).await.unwrap();
        });
    }

    /// Makes a database that is no branch.
    fn make_alone(&self, name: &str) {
        self.runtime.block_on(async {
            let database = Database::open(name, 42, self.engine()).await;
            database.awake().await.unwrap();
            database.declare_window(dormouse_storage::log::Window::Zero).await.unwrap();
            database.sleep().await.unwrap();
        });
    }

    fn delete(&self, name: &str) {
        self.runtime.block_on(async { Database::open(name, 42, self.engine()).await.delete().await.unwrap() });
    }

    fn open(&self, tokens: &[&str]) -> Result<Tenants, String> {
        let tokens = tokens.iter().flat_map(|token| ["--token", token]);
        self.open_with(["--admin-token", "root"].into_iter().chain(tokens))
    }

    fn open_without_tokens(&self) -> Tenants {
        self.open_with([]).unwrap()
    }

    fn open_with<'a>(&self, words: impl IntoIterator<Item = &'a str>) -> Result<Tenants, String> {
        let words = ["dormouse", "--store", "memory://"].into_iter().chain(words).map(OsString::from);
        let Ok(Invocation::Serve(options)) = Invocation::parse(words, []) else { unreachable!() };
        let settings = Settings::new(&options);
        self.runtime.block_on(Tenants::open(
            options.tokens.clone(),
            &self.engine(),
            DirectoryWriters::Sole,
            &settings,
            &COUNTED,
            &SUBJECTS,
            || 42,
        ))
    }

    fn branch(&self, tenants: &Tenants, source: &str, name: &str) -> Result<(), String> {
        let source = tenants.of_name(source).unwrap();
        self.runtime.block_on(tenants.branch(&source, name, None, None)).map_err(|error| error.to_string())
    }

    fn delete_in(&self, tenants: &Tenants, name: &str) -> Result<(), String> {
        let tenant = tenants.of_name(name).unwrap();
        let reserved = tenants.reserve(name).map_err(|error| error.to_string())?;
        let deleted = self.runtime.block_on(tenants.delete(reserved, &tenant, Removal::ForGood, || {}));
        deleted.map(|_| ()).map_err(|error| error.to_string())
    }
}

#[track_caller]
fn check(tenants: &Tenants, user: &str, token: &str, expected: Option<(&str, Rights)>) {
    let found = tenants.log_in(user.as_bytes(), token.as_bytes());
    let found = found.as_ref().map(|entrance| (entrance.tenant.name(), entrance.rights));
    assert_eq!(found, expected, "AUTH {user:?} {token}");
}

#[test]
fn branches_of_the_first_version_belong_to_the_root_of_their_lineage() {
    let bench = Bench::new();
    bench.make("shop", "pr-1");
    bench.make("pr-1", "pr-2");
    bench.make("blog", "pr-3");
    let tenants = bench.open(&["dm_shop_s", "dm_blog_b", "dm_twin_s", "dm_shop.pr-2_own"]).unwrap();
    for (user, token, expected) in [
        // The token that clients of version 0.1.0 have, and today's tokens.
        ("", "dm_pr-1_s", Some(("pr-1", Rights::Database))),
        ("", "dm_shop.pr-1_s", Some(("pr-1", Rights::Database))),
        ("pr-1", "dm_shop_s", Some(("pr-1", Rights::Database))),
        ("shop.pr-1", "dm_shop_s", Some(("pr-1", Rights::Database))),
        ("pr-1", "dm_pr-1_s", Some(("pr-1", Rights::Database))),
        ("shop.pr-1", "dm_shop.pr-1_s", Some(("pr-1", Rights::Database))),
        ("", "dm_pr-2_s", Some(("pr-2", Rights::Database))),
        ("", "dm_shop.pr-2_own", Some(("pr-2", Rights::Branch))),
        ("", "dm_pr-3_b", Some(("pr-3", Rights::Database))),
        ("pr-1", "root", Some(("pr-1", Rights::Node))),
        ("", "dm_pr-1_b", None),
        ("", "dm_blog.pr-1_b", None),
        ("", "dm_twin.pr-1_s", None),
        ("pr-1", "dm_twin_s", None),
        ("pr-1", "dm_blog_b", None),
        ("", "dm_pr-3_s", None),
        ("", "dm_pr-2_own", None),
        ("", "dm_pr-1_own", None),
    ] {
        check(&tenants, user, token, expected);
    }
    let taken = Err("ERR a database of that name exists".to_string());
    assert_eq!(bench.branch(&tenants, "shop", "pr-1"), taken);
    assert_eq!(bench.branch(&tenants, "shop", "shop.pr-1"), taken);
    // Another owner may use the name, and a branch of a branch is its owner's.
    assert_eq!(bench.branch(&tenants, "blog", "pr-1"), Ok(()));
    assert_eq!(bench.branch(&tenants, "pr-2", "pr-4"), Ok(()));
    check(&tenants, "", "dm_shop.pr-4_s", Some(("shop.pr-4", Rights::Database)));
    check(&tenants, "", "dm_blog.pr-1_b", Some(("blog.pr-1", Rights::Database)));
    assert_eq!(bench.delete_in(&tenants, "pr-1"), Ok(()));
    check(&tenants, "", "dm_pr-1_s", None);
    // All of it persists in the next process.
    drop(tenants);
    let tenants = bench.open(&["dm_shop_s", "dm_blog_b"]).unwrap();
    let names: Vec<String> = tenants.all().map(|tenant| tenant.name().to_string()).collect();
    assert_eq!(names, ["blog", "blog.pr-1", "default", "pr-2", "pr-3", "shop", "shop.pr-4"]);
    assert_eq!(tenants.of_name("pr-2").unwrap().owner(), "shop");
    assert_eq!(tenants.of_name("shop.pr-4").unwrap().owner(), "shop");
}

#[test]
fn a_token_that_names_such_a_branch_is_refused() {
    let bench = Bench::new();
    bench.make("b", "c");
    let error = bench.open(&["dm_b_bsecret", "dm_c_csecret"]).map(drop).unwrap_err();
    for part in ["the database `c`", "a branch of `b`", "dm_b.c_SECRET", "dormouse db delete c"] {
        assert!(error.contains(part), "{error}");
    }
    assert!(!error.contains("csecret"), "{error}");
    bench.open(&["dm_b_bsecret", "dm_b.c_csecret"]).unwrap();
    // `default` can be entered with the admin token, so it counts as named.
    bench.make("b", "default");
    let error = bench.open(&["dm_b_bsecret"]).map(drop).unwrap_err();
    assert!(error.contains("the database `default`"), "{error}");
    // The error names a way out: without tokens, from within the owner.
    assert!(error.contains("dormouse db delete default --url redis://b:x@"), "{error}");
    let tenants = bench.open_without_tokens();
    let taken = Arc::clone(&tenants.default());
    assert_eq!(bench.delete_in(&tenants, "default"), Ok(()));
    let default = tenants.default();
    assert!(tenants.has(&default) && !tenants.has(&taken) && !default.is_branch());
    assert!(bench.delete_in(&tenants, "default").unwrap_err().contains("cannot be deleted"));
    drop(tenants);
    bench.open(&["dm_b_bsecret"]).unwrap();
}

/// `DORMOUSE DELETE` resolves names as `AUTH` does.
#[test]
fn a_branch_of_the_first_version_is_found_with_and_without_its_owner() {
    let bench = Bench::new();
    bench.make("shop", "pr-1");
    let tenants = bench.open(&["dm_shop_s", "dm_blog_b"]).unwrap();
    assert_eq!(bench.branch(&tenants, "blog", "pr-1"), Ok(()));
    for (owner, name, expected) in [
        ("shop", "pr-1", Some("pr-1")),
        ("shop", "shop.pr-1", Some("pr-1")),
        ("shop", "blog.pr-1", Some("blog.pr-1")),
        ("shop", "blog", Some("blog")),
        ("blog", "pr-1", Some("blog.pr-1")),
        ("blog", "shop.pr-1", Some("pr-1")),
        ("default", "pr-1", Some("pr-1")),
        ("shop", "pr-2", None),
        ("shop", "shop.shop", None),
    ] {
        let found = bench.runtime.block_on(tenants.opened_for(owner, name, true));
        assert_eq!(found.as_deref().map(|tenant| tenant.name()), expected, "{name} for {owner}");
    }
}

/// Version 0.1.0 allowed a name to pass from one owner to another. Ancestors are known by name only.
#[test]
fn a_name_that_changed_its_owner_leads_to_no_branch_of_the_one_before() {
    let bench = Bench::new();
    bench.make("shop", "p");
    bench.make("p", "q");
    bench.delete("p");
    bench.make("blog", "p");
    let tenants = bench.open(&["dm_shop_s", "dm_blog_b"]).unwrap();
    let of = |name: &str| tenants.of_name(name).unwrap();
    assert_eq!((of("p").owner(), of("q").owner()), ("blog", "shop"));
    assert!(!of("q").descends_from(&of("p")) && of("q").descends_from(&of("shop")));
    check(&tenants, "", "dm_q_b", None);
    check(&tenants, "", "dm_q_s", Some(("q", Rights::Database)));
}

#[test]
fn a_database_that_no_token_names_is_the_node_s() {
    let bench = Bench::new();
    bench.make_alone("old");
    let tenants = bench.open(&["dm_shop_s", "dm_older_s2"]).unwrap();
    for (user, token) in [("", "dm_old_s"), ("old", "dm_shop_s"), ("", "dm_old_"), ("", "dm_shop.old_s"), ("old", "")] {
        check(&tenants, user, token, None);
    }
    // A branch of that short name is another database.
    assert_eq!(bench.branch(&tenants, "shop", "old"), Ok(()));
    check(&tenants, "", "dm_old_s", None);
    check(&tenants, "", "dm_shop.old_s", Some(("shop.old", Rights::Database)));
    check(&tenants, "old", "root", Some(("old", Rights::Node)));
    // It can be deleted when it has no branches, and never while a token opens it.
    assert_eq!(bench.branch(&tenants, "old", "pr"), Ok(()));
    let branched = Err("ERR the database has branches: delete those first".to_string());
    assert_eq!(bench.delete_in(&tenants, "old"), branched);
    assert_eq!(bench.delete_in(&tenants, "old.pr"), Ok(()));
    assert_eq!(bench.delete_in(&tenants, "old"), Ok(()));
    assert!(tenants.of_name("old").is_none());
    assert!(bench.delete_in(&tenants, "shop").unwrap_err().contains("a token opens this database"));
    assert!(bench.delete_in(&tenants, "default").unwrap_err().contains("cannot be deleted"));
}
