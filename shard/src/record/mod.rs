//! What the tables store: thin owning pointers, each to one allocation.

mod entry;
mod size_class;

pub use self::{
    entry::{Entry, prefetch},
    size_class::size_class,
};
