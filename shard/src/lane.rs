//! The slow lane: a few threads for what would keep a worker from its other connections.
//!
//! A thread here may wait for a shard's lock and hold it for long. It never waits for another job of the lane, so that
//! the lane cannot lock itself up.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;

use crossbeam::channel::{self, Sender};

type Task = Box<dyn FnOnce() + Send>;

#[derive(Debug, Clone)]
pub struct Lane {
    tasks: Arc<Sender<Task>>,
}

impl Lane {
    /// # Errors
    /// When the system refuses a thread.
    pub fn new(threads: usize) -> std::io::Result<Self> {
        let (tasks, queue) = channel::unbounded::<Task>();
        for n in 0..threads.max(1) {
            let queue = queue.clone();
            thread::Builder::new()
                .name(format!("slow-lane-{n}"))
                // A task that panics has said so on standard error, and the thread goes on.
                .spawn(move || queue.iter().for_each(|task| drop(catch_unwind(AssertUnwindSafe(task)))))?;
        }
        Ok(Self { tasks: Arc::new(tasks) })
    }

    pub fn run(&self, task: impl FnOnce() + Send + 'static) {
        // The threads end with the last handle, so there is one to receive it.
        let _ = self.tasks.send(Box::new(task));
    }
}
