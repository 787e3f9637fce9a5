//! fred: a client that pipelines by itself, a pool, a subscriber. The runner's side of the protocol is described in
//! client-tests/src/lib.rs.

use std::collections::HashMap;
use std::future::Future;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use fred::clients::SubscriberClient;
use fred::prelude::*;
use fred::types::scripts::Script;
use fred::types::{CustomCommand, ExpireOptions};
use tokio::time::{sleep as pause, timeout};

type Outcome<T = ()> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// A step takes seconds; a machine that is busy with a build may need far longer.
const LIMIT: Duration = Duration::from_secs(40);

macro_rules! ensure {
    ($condition:expr, $($text:tt)*) => {
        if !$condition {
            return Err(format!($($text)*).into());
        }
    };
}

macro_rules! equal {
    ($found:expr, $wanted:expr) => {{
        let (found, wanted) = (&$found, &$wanted);
        ensure!(found == wanted, "{}: {found:?}, not {wanted:?}", stringify!($found));
    }};
}

#[tokio::main]
async fn main() -> ExitCode {
    let steps = [
        ("commands are pipelined", run(commands_are_pipelined).await),
        ("a pool shares its work", run(a_pool_shares_its_work).await),
        ("transactions are whole", run(transactions_are_whole).await),
        ("locks expire", run(locks_expire).await),
        ("clients wait for work", run(clients_wait_for_work).await),
        ("messages arrive", run(messages_arrive).await),
    ];
    for (name, outcome) in &steps {
        match outcome {
            Ok(time) => println!("ok {name} ({} ms)", time.as_millis()),
            Err(problem) => println!("not ok {name}\n{problem}"),
        }
    }
    let failed = steps.iter().filter(|(_, outcome)| outcome.is_err()).count();
    println!("{} passed, {failed} failed", steps.len() - failed);
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs a step on an empty database.
async fn run<F: Future<Output = Outcome>>(step: impl FnOnce() -> F) -> Outcome<Duration> {
    let operator = open().await?;
    operator.flushall::<()>(false).await?;
    let start = Instant::now();
    timeout(LIMIT, step()).await??;
    Ok(start.elapsed())
}

fn builder() -> Outcome<Builder> {
    let port = std::env::var("DORMOUSE_TEST_PORT")?;
    Ok(Builder::from_config(Config::from_url(&format!("redis://127.0.0.1:{port}"))?))
}

async fn open() -> Outcome<Client> {
    let client = builder()?.build()?;
    client.init().await?;
    Ok(client)
}

/// Puts the database to sleep from a connection of its own.
async fn sleep() -> Outcome {
    if std::env::var("DORMOUSE_TEST_SERVER")? != "dormouse" {
        return Ok(());
    }
    let operator = open().await?;
    let command = CustomCommand::new_static("DORMOUSE", None::<u16>, false);
    loop {
        match operator.custom::<String, _>(command.clone(), vec!["SLEEP"]).await {
            Ok(_) => return Ok(()),
            // A database that is written to in each round of its last checkpoint stays awake.
            Err(problem) if problem.details().starts_with("ERR clients go on writing") => {
                pause(Duration::from_millis(5)).await
            }
            Err(problem) => return Err(problem.into()),
        }
    }
}

async fn commands_are_pipelined() -> Outcome {
    let client = open().await?;
    let pipeline = client.pipeline();
    for n in 0..100 {
        pipeline.set::<(), _, _>(format!("key:{n}"), n, None, None, false).await?;
    }
    pipeline.all::<Vec<String>>().await?;
    sleep().await?;
    let tasks: Vec<_> = (0..100)
        .map(|n| {
            let client = client.clone();
            tokio::spawn(async move { client.incr::<i64, _>(format!("key:{n}")).await })
        })
        .collect();
    for (n, task) in tasks.into_iter().enumerate() {
        equal!(task.await??, n as i64 + 1);
    }
    sleep().await?;
    equal!(client.mget::<Vec<Option<i64>>, _>(vec!["key:7", "none"]).await?, [Some(8), None]);
    let mut keys = 0;
    let mut page = client.scan_page::<(String, Vec<String>), _, _>("0", "key:*", Some(10), None).await?;
    loop {
        let (cursor, found) = page;
        keys += found.len();
        if cursor == "0" {
            break;
        }
        sleep().await?;
        page = client.scan_page(cursor, "key:*", Some(50), None).await?;
    }
    equal!(keys, 100);
    Ok(())
}

async fn a_pool_shares_its_work() -> Outcome {
    let pool = builder()?.build_pool(4)?;
    pool.init().await?;
    let script = Script::from_lua("redis.call('HINCRBY', KEYS[1], ARGV[1], 1) return redis.call('HLEN', KEYS[1])");
    script.load(pool.next()).await?;
    for round in 1..=3 {
        sleep().await?;
        let tasks: Vec<_> = (0..8)
            .map(|n| {
                let (pool, script) = (pool.clone(), script.clone());
                tokio::spawn(async move {
                    script.evalsha_with_reload::<i64, _, _>(pool.next(), "counts", format!("{n}")).await
                })
            })
            .collect();
        for task in tasks {
            task.await??;
        }
        let counts: HashMap<String, i64> = pool.hgetall("counts").await?;
        ensure!(counts.len() == 8 && counts.values().all(|count| *count == round), "{counts:?} in round {round}");
    }
    Ok(())
}

async fn transactions_are_whole() -> Outcome {
    let client = open().await?;
    client.set::<(), _, _>("balance", 5, None, None, false).await?;
    sleep().await?;
    let transaction = client.multi();
    transaction.incr_by::<(), _>("balance", 2).await?;
    transaction.rpush::<(), _, _>("log", "7").await?;
    equal!(transaction.exec::<(i64, i64)>(true).await?, (7, 1));
    sleep().await?;
    let transaction = client.multi();
    transaction.incr::<(), _>("balance").await?;
    transaction.incr::<(), _>("log").await?;
    ensure!(transaction.exec::<Value>(true).await.is_err(), "a counter is no list");
    equal!(client.get::<i64, _>("balance").await?, 8);
    Ok(())
}

async fn locks_expire() -> Outcome {
    let client = open().await?;
    let take = |name: &'static str, ms: i64| {
        let client = &client;
        async move {
            let expiry = Some(Expiration::PX(ms));
            client.set::<Option<String>, _, _>("door", name, expiry, Some(SetOptions::NX), false).await
        }
    };
    ensure!(take("mine", 1_000).await?.is_some(), "it was free");
    ensure!(take("theirs", 60_000).await?.is_none(), "it was taken");
    sleep().await?;
    let left: i64 = client.pttl("door").await?;
    ensure!((-2..=1_000).contains(&left) && left != -1, "it lives for {left} ms");
    while take("theirs", 60_000).await?.is_none() {
        pause(Duration::from_millis(20)).await;
    }
    sleep().await?;
    equal!(client.get::<String, _>("door").await?, "theirs");
    equal!(client.expire::<i64, _>("door", 3_600, Some(ExpireOptions::GT)).await?, 1);
    Ok(())
}

async fn clients_wait_for_work() -> Outcome {
    let (client, worker) = (open().await?, open().await?);
    let waiting =
        tokio::spawn(
            async move { worker.blpop::<(String, String), _>(vec!["high", "low"], LIMIT.as_secs_f64()).await },
        );
    sleep().await?;
    ensure!(!waiting.is_finished(), "there was no work");
    client.rpush::<i64, _, _>("low", "paint").await?;
    equal!(waiting.await??, ("low".to_owned(), "paint".to_owned()));
    Ok(())
}

async fn messages_arrive() -> Outcome {
    let (client, listener): (Client, SubscriberClient) = (open().await?, builder()?.build_subscriber_client()?);
    listener.init().await?;
    let mut heard = listener.message_rx();
    listener.subscribe("news").await?;
    listener.psubscribe("weather.*").await?;
    // fred does not wait for the server's answer to a subscription.
    for (channel, text) in [("news", "first"), ("weather.today", "sun")] {
        while client.publish::<i64, _, _>(channel, text).await? == 0 {
            pause(Duration::from_millis(5)).await;
        }
        sleep().await?;
    }
    equal!(client.publish::<i64, _, _>("news", "second").await?, 1);
    for (channel, text) in [("news", "first"), ("weather.today", "sun"), ("news", "second")] {
        let message = heard.recv().await?;
        equal!(
            (message.channel.to_string(), message.value.convert::<String>()?),
            (channel.to_owned(), text.to_owned())
        );
    }
    Ok(())
}
