//! Values that were dropped, to be freed away from the shard's lock.

#[derive(Default)]
pub struct Graveyard {
    dead: Vec<Box<dyn Send>>,
    bytes: usize,
}

impl Graveyard {
    /// Takes something in that holds about `bytes` of memory.
    pub fn bury(&mut self, bytes: usize, dead: Box<dyn Send>) {
        self.bytes += bytes;
        self.dead.push(dead);
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    pub fn len(&self) -> usize {
        self.dead.len()
    }

    pub fn is_empty(&self) -> bool {
        self.dead.is_empty()
    }
}
