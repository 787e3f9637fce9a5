use std::sync::atomic::AtomicBool;
use std::sync::mpsc;

use tokio::task::yield_now;

use super::*;

/// A lane on a runtime of one thread, so that all happens in one order.
struct Bench {
    lane: Lane,
    /// Jobs that have begun, in order.
    began: Arc<Mutex<Vec<String>>>,
    ends: HashMap<String, oneshot::Sender<()>>,
}

impl Bench {
    fn run<F: Future<Output = ()>>(test: impl FnOnce(Self) -> F) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let lane = Lane::on(runtime.handle());
        runtime.block_on(test(Self { lane, began: Arc::default(), ends: HashMap::new() }));
    }

    /// Notes that a job has begun.
    fn note(&self, name: &str) -> impl FnOnce() + Send + use<> {
        let (began, name) = (Arc::clone(&self.began), name.to_owned());
        move || began.lock().push(name)
    }

    /// Queues a job that runs until the test ends it.
    fn long(&mut self, queue: &Queue, name: &str) {
        let note = self.note(name);
        let (sender, end) = oneshot::channel();
        self.ends.insert(name.to_owned(), sender);
        queue.start(async move {
            note();
            let _ = end.await;
        });
    }

    fn short(&self, queue: &Queue, name: &str) {
        queue.run(self.note(name)).expect("room in the queue");
    }

    async fn end(&mut self, name: &str) {
        let _ = self.ends.remove(name).expect("a job of that name").send(());
        settle().await;
    }

    /// The jobs that have begun since the last look.
    async fn began(&self) -> String {
        settle().await;
        self.began.lock().drain(..).collect::<Vec<_>>().join(" ")
    }
}

/// Lets every task go on as far as it can.
async fn settle() {
    for _ in 0..200 {
        yield_now().await;
    }
}

#[test]
fn databases_are_served_in_turn() {
    Bench::run(async |bench| {
        let [a, b, c] = [(); 3].map(|()| bench.lane.queue());
        for name in ["a1", "a2", "a3", "a4"] {
            bench.short(&a, name);
        }
        bench.short(&b, "b1");
        bench.short(&b, "b2");
        bench.short(&c, "c1");
        assert_eq!(bench.began().await, "a1 b1 c1 a2 b2 a3 a4");
    });
}

#[test]
fn a_database_that_uses_all_threads_keeps_no_other_waiting() {
    Bench::run(async |mut bench| {
        let [a, b] = [(); 2].map(|()| bench.lane.queue());
        for name in ["a1", "a2", "a3"] {
            bench.long(&a, name);
        }
        assert_eq!(bench.began().await, "a1 a2");
        bench.long(&b, "b1");
        bench.long(&b, "b2");
        assert_eq!(bench.began().await, "b1");
        // The first has one thread and the second has one: that is all that the lane has.
        bench.end("a1").await;
        assert_eq!(bench.began().await, "");
        bench.end("b1").await;
        assert_eq!(bench.began().await, "b2");
        bench.end("a2").await;
        assert_eq!(bench.began().await, "a3");
    });
}

#[test]
fn so_many_databases_run_at_a_time_and_the_others_wait_for_their_turn() {
    Bench::run(async |mut bench| {
        let queues: Vec<Queue> = (0..RUNNING_MAX + 2).map(|_| bench.lane.queue()).collect();
        for (at, queue) in queues.iter().enumerate() {
            bench.long(queue, &format!("{at}"));
            bench.long(queue, &format!("{at}+"));
        }
        let first: Vec<String> = (0..RUNNING_MAX).map(|at| at.to_string()).collect();
        assert_eq!(bench.began().await, first.join(" "));
        bench.end("3").await;
        assert_eq!(bench.began().await, format!("{RUNNING_MAX}"));
        bench.end("5").await;
        assert_eq!(bench.began().await, format!("{}", RUNNING_MAX + 1));
        bench.end("7").await;
        assert_eq!(bench.began().await, "3+");
    });
}

/// A tenant may have many branches.
#[test]
fn the_databases_of_one_owner_leave_places_to_others() {
    Bench::run(async |mut bench| {
        for at in 0..RUNNING_MAX {
            let queue = bench.lane.queue_of("shop");
            bench.long(&queue, &format!("{at}"));
        }
        let first: Vec<String> = (0..OWNER_RUNNING_MAX).map(|at| at.to_string()).collect();
        assert_eq!(bench.began().await, first.join(" "));
        let others: Vec<Queue> = (0..RUNNING_MAX - OWNER_RUNNING_MAX).map(|_| bench.lane.queue()).collect();
        for queue in &others {
            bench.long(queue, "other");
            assert_eq!(bench.began().await, "other");
        }
        bench.end("2").await;
        assert_eq!(bench.began().await, format!("{OWNER_RUNNING_MAX}"));
    });
}

#[test]
fn a_write_that_a_job_waits_for_begins_at_once() {
    Bench::run(async |mut bench| {
        let writer = bench.lane.queue();
        let (sender, end) = oneshot::channel::<()>();
        bench.ends.insert("writer".to_owned(), sender);
        let (queue, write, done) = (writer.clone(), bench.note("write"), bench.note("written"));
        writer.start(async move {
            let _ = end.await;
            let written = queue.begin_write(async move { write() }).await;
            let _ = written.await;
            done();
        });
        for at in 1..RUNNING_MAX + 5 {
            bench.long(&bench.lane.queue(), &format!("{at}"));
        }
        bench.began().await;
        bench.end("writer").await;
        assert_eq!(bench.began().await.split(' ').take(2).collect::<Vec<_>>(), ["write", "written"]);
    });
}

/// However many threads wait for locks, a job gets its write done.
#[test]
fn a_write_that_no_thread_is_left_for_is_done_by_its_job() {
    let lane = Lane::new("full", 1, 0).expect("a thread");
    let writer = lane.queue();
    let (go, may_go) = oneshot::channel::<()>();
    let (sender, written) = mpsc::channel();
    let queue = writer.clone();
    writer.start(async move {
        let _ = may_go.await;
        let done = queue.begin_write(async { "written" }).await;
        let _ = sender.send(done.await);
    });
    let waiting = Arc::new(AtomicUsize::new(0));
    let locks: Vec<oneshot::Sender<()>> = (1..THREADS_MAX)
        .map(|_| {
            let (lock, locked) = oneshot::channel();
            let waiting = Arc::clone(&waiting);
            let ready = async move {
                waiting.fetch_add(1, Ordering::Relaxed);
                locked.await.ok()
            };
            lane.queue().run_after(Box::default(), ready, |()| ()).expect("there is room");
            lock
        })
        .collect();
    while waiting.load(Ordering::Relaxed) < THREADS_MAX - 1 {
        thread::yield_now();
    }
    go.send(()).expect("the job waits");
    assert_eq!(written.recv(), Ok(Ok("written")));
    drop(locks);
}

/// However many threads wait for locks, scripts that hold some go on.
#[test]
fn scripts_that_go_on_get_a_thread_at_once() {
    let lane = Lane::new("crowded", 1, 0).expect("a thread");
    let locks: Vec<oneshot::Sender<()>> = (0..THREADS_MAX)
        .map(|_| {
            let (lock, locked) = oneshot::channel();
            lane.queue().run_after(Box::default(), async move { locked.await.ok() }, |()| ()).expect("there is room");
            lock
        })
        .collect();
    let (sender, gone_on) = mpsc::channel();
    // Each of them waits for all the others.
    let all = Arc::new(std::sync::Barrier::new(5));
    let queues: Vec<Queue> = (0..5).map(|_| lane.queue()).collect();
    for queue in &queues {
        let (all, sender) = (Arc::clone(&all), sender.clone());
        queue.go_on(move || {
            all.wait();
            let _ = sender.send(());
        });
    }
    assert_eq!((0..5).map(|_| gone_on.recv()).collect::<Vec<_>>(), [Ok(()); 5]);
    drop(locks);
}

#[test]
fn a_full_queue_refuses_what_clients_ask_and_nothing_else() {
    Bench::run(async |mut bench| {
        let [a, b] = [(); 2].map(|()| bench.lane.queue());
        bench.long(&a, "a1");
        bench.long(&a, "a2");
        assert_eq!(bench.began().await, "a1 a2");
        for _ in 0..QUEUE_MAX {
            a.run(|| ()).expect("room in the queue");
        }
        assert_eq!(a.waiting(), QUEUE_MAX);
        assert_eq!(a.run(|| ()), Err(NotRun::Full));
        assert_eq!(a.drive(async {}).await, Err(NotRun::Full));
        assert_eq!(
            NotRun::Full.error(|| Error::OutOfMemory).to_string(),
            "BUSY 1024 slow commands of this database wait already: this one was not run"
        );
        a.relieve(bench.note("relief"));
        assert_eq!(b.drive(async { 7 }).await, Ok(7));
        assert_eq!(bench.began().await, "relief");
        bench.end("a1").await;
        assert_eq!(a.waiting(), 0);
    });
}

struct Dead(Box<dyn FnOnce() + Send>);

impl Drop for Dead {
    fn drop(&mut self) {
        std::mem::replace(&mut self.0, Box::new(|| ()))();
    }
}

#[test]
fn waste_is_freed_after_all_that_clients_wait_for() {
    Bench::run(async |mut bench| {
        let [a, b] = [(); 2].map(|()| bench.lane.queue());
        bench.long(&a, "a1");
        bench.long(&a, "a2");
        assert_eq!(bench.began().await, "a1 a2");
        let dead = |name: &str| Dead(Box::new(bench.note(name)));
        a.free(10, dead("waste of a"));
        b.free(20, dead("waste of b"));
        let pressing = dead("much waste of b");
        assert_eq!((a.waste_bytes(), b.waste_bytes()), (10, 20));
        bench.short(&a, "a3");
        assert_eq!(bench.began().await, "");
        bench.end("a1").await;
        assert_eq!(bench.began().await, "a3 waste of a waste of b");
        assert_eq!((a.waste_bytes(), b.waste_bytes()), (0, 0));
        // A database with much waste gets its turns beside the others.
        bench.long(&a, "a4");
        assert_eq!(bench.began().await, "a4");
        b.free(WASTE_BYTES_MAX + 1, pressing);
        assert_eq!(bench.began().await, "much waste of b");
        assert_eq!(b.waste_bytes(), 0);
    });
}

#[test]
fn a_job_that_waits_for_a_lock_keeps_no_thread() {
    Bench::run(async |mut bench| {
        let a = bench.lane.queue();
        let mut locks = HashMap::new();
        let asked: Arc<Mutex<Vec<&str>>> = Arc::default();
        for (name, claims) in
            [("a1", vec![1, 2]), ("a2", vec![3]), ("a3", vec![2]), ("a4", vec![2, 4]), ("a5", vec![4])]
        {
            let (sender, lock) = oneshot::channel::<()>();
            locks.insert(name, sender);
            let asks = Arc::clone(&asked);
            let ready = async move {
                asks.lock().push(name);
                lock.await.ok()
            };
            let note = bench.note(name);
            a.run_after(claims.into(), ready, move |()| note()).expect("room in the queue");
        }
        settle().await;
        // A job that shares a shard with an earlier one waits in the queue.
        assert_eq!(*asked.lock(), ["a1", "a2"]);
        // Both threads wait for locks, so another one may run other jobs.
        bench.long(&a, "a6");
        assert_eq!(bench.began().await, "a6");
        let grant = |locks: &mut HashMap<_, oneshot::Sender<()>>, name| {
            locks.remove(name).map(|lock| lock.send(())).expect("it waits").expect("it is wanted");
        };
        grant(&mut locks, "a1");
        assert_eq!(bench.began().await, "a1");
        assert_eq!(*asked.lock(), ["a1", "a2", "a3"]);
        grant(&mut locks, "a3");
        assert_eq!(bench.began().await, "a3");
        assert_eq!(*asked.lock(), ["a1", "a2", "a3", "a4"]);
        // Given up: later jobs go on.
        drop(locks.remove("a4"));
        assert_eq!(bench.began().await, "");
        assert_eq!(*asked.lock(), ["a1", "a2", "a3", "a4", "a5"]);
        grant(&mut locks, "a5");
        grant(&mut locks, "a2");
        assert_eq!(bench.began().await, "a5 a2");
    });
}

#[test]
fn a_job_that_panics_takes_nothing_along() {
    Bench::run(async |bench| {
        let a = bench.lane.queue();
        for _ in 0..4 {
            let failed = a.drive(async { panic!("on purpose") }).await;
            assert_eq!(failed, Err::<(), _>(NotRun::Panicked));
            a.run(|| panic!("on purpose")).expect("room in the queue");
        }
        assert_eq!(a.drive(async { 7 }).await, Ok(7));
        assert_eq!(bench.began().await, "");
    });
}

#[test]
fn threads_come_when_they_are_needed_and_end_with_the_lane() {
    let lane = Lane::new("lane", 2, 0).expect("threads");
    let pool = Arc::downgrade(&lane.open.0);
    let [a, b] = [(); 2].map(|()| lane.queue());
    let (began, all_began) = mpsc::channel();
    let (end, until) = mpsc::channel::<()>();
    let until = Arc::new(std::sync::Mutex::new(until));
    let ended = Arc::new(AtomicBool::new(false));
    for _ in 0..3 {
        let (began, until, ended) = (began.clone(), Arc::clone(&until), Arc::clone(&ended));
        a.run(move || {
            let _ = began.send(());
            drop(until.lock().map(|until| until.recv()));
            ended.store(true, Ordering::SeqCst);
        })
        .expect("room in the queue");
    }
    all_began.recv().expect("the lane runs jobs");
    all_began.recv().expect("the lane has two threads");
    assert_eq!(block_on(b.drive(async { 7 })), Ok(7));
    assert_eq!(block_on(b.drive(async { panic!("on purpose") })), Err::<(), _>(NotRun::Panicked));
    assert!(!ended.load(Ordering::SeqCst));
    for _ in 0..3 {
        end.send(()).expect("the jobs wait for it");
    }
    all_began.recv().expect("the third job has its turn");
    drop((a, b, lane));
    while pool.strong_count() > 0 {
        thread::yield_now();
    }
}

#[test]
fn a_sender_never_waits_for_the_lock_and_its_holder_takes_in_what_was_sent() {
    let lane = Lane::new("test", 1, 0).expect("a thread");
    let (queue, (ran, runs)) = (lane.queue(), mpsc::channel());
    let held = lane.open.0.lock();
    thread::scope(|scope| {
        for n in 0..3 {
            let (queue, ran) = (queue.clone(), ran.clone());
            // A sender that waits for the lock hangs the test.
            scope.spawn(move || queue.run(move || ran.send(n).expect("a receiver")).expect("room"));
        }
    });
    assert!(runs.try_recv().is_err(), "the lane ran a job while its lock was held");
    assert_eq!(queue.waiting(), 3);
    drop(held);
    let mut ran: Vec<i32> = (0..3).map(|_| runs.recv().expect("a sender")).collect();
    ran.sort_unstable();
    assert_eq!(ran, [0, 1, 2]);
}

#[test]
fn jobs_of_many_senders_all_run() {
    const JOBS: usize = 2_000;
    let lane = Lane::new("test", 2, 0).expect("threads");
    let (ran, runs) = mpsc::channel();
    for _ in 0..4 {
        let (queue, ran) = (lane.queue(), ran.clone());
        thread::spawn(move || {
            for _ in 0..JOBS {
                let ran = ran.clone();
                queue.start(async move { ran.send(()).expect("a receiver") });
            }
        });
    }
    (0..4 * JOBS).for_each(|_| runs.recv().expect("a sender"));
}

#[test]
fn a_job_that_must_wait_for_another_calls_no_thread_and_none_is_forgotten() {
    Bench::run(async |mut bench| {
        let a = bench.lane.queue();
        let long = |bench: &mut Bench, name: &str, claims: &[u64]| {
            let note = bench.note(name);
            let (sender, end) = oneshot::channel::<()>();
            bench.ends.insert(name.to_owned(), sender);
            let ready = async move {
                note();
                end.await.ok()
            };
            a.run_after(claims.into(), ready, |()| ()).expect("room in the queue");
        };
        long(&mut bench, "a1", &[1, 2]);
        settle().await;
        long(&mut bench, "a2", &[1]);
        long(&mut bench, "a3", &[2]);
        assert_eq!(bench.lane.open.0.state.lock().coming, 0);
        assert_eq!(bench.began().await, "a1");
        // Both may begin now: the thread that has ended a1 takes one, and calls another for the other.
        bench.end("a1").await;
        assert_eq!(bench.began().await, "a2 a3");
        bench.end("a2").await;
        bench.end("a3").await;
    });
}
