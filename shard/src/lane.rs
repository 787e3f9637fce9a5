//! Lanes: a few threads each for what would keep a worker from its other connections.
//!
//! The slow lane runs long commands, the loader what clients wait for from the store, the patient lane what nobody waits
//! for. Reads of a local store happen on the lane's thread itself: each change of thread would wait for a busy core.
//!
//! A test that wants one order of events hands its own runtime to [`Lane::on`] instead: everything then runs on that.
//!
//! A thread here may wait for a shard's lock and hold it for long. It never waits for another job of the lane, so that
//! the lane cannot lock itself up.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;

use crossbeam::channel::{self, Sender};
use futures::channel::oneshot;
use futures::executor::block_on;
use tokio::runtime::Handle;

type Task = Box<dyn FnOnce() + Send>;

#[derive(Debug, Clone)]
pub struct Lane {
    tasks: Tasks,
}

#[derive(Debug, Clone)]
enum Tasks {
    Threads(Arc<Sender<Task>>),
    Runtime(Handle),
}

impl Lane {
    /// Threads called `name`, and so much nicer than others (0-19) to whoever wants their core.
    ///
    /// # Errors
    /// When the system refuses a thread.
    pub fn new(name: &str, threads: usize, nicer: i32) -> std::io::Result<Self> {
        let (tasks, queue) = channel::unbounded::<Task>();
        for n in 0..threads.max(1) {
            let queue = queue.clone();
            thread::Builder::new().name(format!("{name}-{n}")).spawn(move || {
                if nicer > 0 {
                    // Refused: then it is as pressing as the others.
                    let _ = rustix::process::nice(nicer);
                }
                // A task that panics has said so on standard error, and the thread goes on.
                queue.iter().for_each(|task| drop(catch_unwind(AssertUnwindSafe(task))));
            })?;
        }
        Ok(Self { tasks: Tasks::Threads(Arc::new(tasks)) })
    }

    /// No threads: what it is given are tasks of `runtime`.
    pub fn on(runtime: &Handle) -> Self {
        Self { tasks: Tasks::Runtime(runtime.clone()) }
    }

    /// Runs a future to its end on the lane, even if nobody waits for it any more. `None`: it panicked.
    pub async fn drive<T: Send + 'static>(&self, future: impl Future<Output = T> + Send + 'static) -> Option<T> {
        let (sender, receiver) = oneshot::channel();
        self.start(async move { drop(sender.send(future.await)) });
        receiver.await.ok()
    }

    /// The same where nobody waits for it.
    pub fn start(&self, future: impl Future<Output = ()> + Send + 'static) {
        match &self.tasks {
            Tasks::Threads(_) => self.run(move || block_on(future)),
            Tasks::Runtime(runtime) => drop(runtime.spawn(future)),
        }
    }

    pub fn run(&self, task: impl FnOnce() + Send + 'static) {
        match &self.tasks {
            // The threads end with the last handle, so there is one to receive it.
            Tasks::Threads(tasks) => drop(tasks.send(Box::new(task))),
            Tasks::Runtime(runtime) => drop(runtime.spawn(async move { task() })),
        }
    }
}
