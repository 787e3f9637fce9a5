//! Applications that use Redis as a queue, a bus, or a store of locks and limits: each does its work while the database
//! is put to sleep beneath it.
//!
//! The quick ones run always. With `DORMOUSE_LONG` set, the others run too, and each runs once more while the database
//! is put to sleep all the time.

use std::{env, process::Command, time::Duration};

use dormouse_client_tests::{Suite, applications, toolchain};

mod node {
    use super::*;

    #[test]
    fn bullmq() {
        run("bullmq", &[]);
    }

    #[test]
    fn rate_limiter_flexible() {
        run("rate-limiter-flexible", &[]);
    }

    #[test]
    fn socket_io_over_publish_and_subscribe() {
        run("socket.io", &["pub-sub-ioredis"]);
        run("socket.io", &["pub-sub-node-redis"]);
    }

    #[test]
    fn socket_io_over_sharded_channels() {
        run("socket.io", &["sharded-ioredis"]);
        run("socket.io", &["sharded-node-redis"]);
    }

    #[test]
    fn socket_io_over_streams() {
        run("socket.io", &["streams"]);
    }

    /// bee-queue, connect-redis with express-session, and redlock.
    #[test]
    fn more() {
        if is_long() {
            run("more", &[]);
        }
    }

    #[test]
    fn idle_ones_let_the_database_sleep() {
        if let Some(mut script) = script("idle") {
            Suite::run_idle(&mut script, quiet_time());
        }
    }

    fn run(name: &str, arguments: &[&str]) {
        if script(name).is_some() {
            check(|| {
                let mut command = script(name).expect("it was there before");
                command.args(arguments);
                command
            });
        }
    }

    fn script(name: &str) -> Option<Command> {
        let folder = applications::node()?;
        let mut command = Command::new("node");
        command.arg(folder.join(format!("{name}.js")));
        Some(command)
    }
}

mod python {
    use super::*;

    #[test]
    fn celery() {
        run("celery_steps");
    }

    #[test]
    fn rq() {
        run("rq_steps");
    }

    #[test]
    fn locks_of_redis_py() {
        run("lock_steps");
    }

    /// dramatiq, huey, taskiq, saq, django-redis, channels_redis and limits.
    #[test]
    fn more() {
        if is_long() && more_steps().is_some() {
            check(|| more_steps().expect("it was there before"));
        }
    }

    #[test]
    fn arq() {
        run_long("arq_steps");
    }

    #[test]
    fn valkey_glide() {
        run_long("glide_steps");
    }

    #[test]
    fn idle_workers_let_the_database_sleep() {
        if let Some(mut script) = script("idle_steps") {
            Suite::run_idle(&mut script, quiet_time());
        }
    }

    fn run(name: &str) {
        if script(name).is_some() {
            check(|| script(name).expect("it was there before"));
        }
    }

    fn script(name: &str) -> Option<Command> {
        script_with("requirements.txt", name)
    }

    /// These have packages of their own: arq wants an older redis-py than the others.
    fn run_long(name: &str) {
        if is_long() && script_with("arq.txt", name).is_some() {
            check(|| script_with("arq.txt", name).expect("it was there before"));
        }
    }

    fn more_steps() -> Option<Command> {
        script_with("more.txt", "more_steps")
    }

    fn script_with(requirements: &str, name: &str) -> Option<Command> {
        let python = applications::python(requirements)?;
        let mut command = Command::new(&python);
        command.arg("-B").arg(toolchain::sources("applications/python").join(format!("{name}.py")));
        Some(command)
    }
}

mod go {
    use super::*;

    #[test]
    fn asynq() {
        run("asynq");
    }

    #[test]
    fn rueidis() {
        run("rueidis");
    }

    fn run(name: &str) {
        if let Some(program) = applications::go() {
            check(|| {
                let mut command = Command::new(&program);
                command.arg(name);
                command
            });
        }
    }
}

mod java {
    use super::*;

    #[test]
    fn redisson() {
        run("RedissonSteps");
    }

    #[test]
    fn spring_session() {
        run("SpringSessionSteps");
    }

    fn run(class: &str) {
        if is_long()
            && let Some(classes) = applications::java()
        {
            check(|| {
                let mut command = Command::new("java");
                command.arg("-XX:TieredStopAtLevel=1").arg("-cp").arg(&classes).arg(class);
                command
            });
        }
    }
}

mod rust {
    use super::*;

    #[test]
    fn fred() {
        if is_long()
            && let Some(program) = applications::rust()
        {
            check(|| Command::new(&program));
        }
    }
}

/// Whether the tests that take minutes to install or to run were asked for.
fn is_long() -> bool {
    env::var_os("DORMOUSE_LONG").is_some()
}

/// How long a database must stay asleep beneath idle applications: an hour in a long run, unless
/// `DORMOUSE_QUIET_SECONDS` says otherwise.
fn quiet_time() -> Duration {
    let set = env::var("DORMOUSE_QUIET_SECONDS").ok();
    let set = set.map(|seconds| seconds.parse().expect("DORMOUSE_QUIET_SECONDS is a number"));
    Duration::from_secs(set.unwrap_or(if is_long() { 3600 } else { 6 }))
}

fn check(application: impl Fn() -> Command) {
    Suite::run(&mut application());
    if is_long() {
        Suite::run_among_sleeps(&mut application());
    }
}
