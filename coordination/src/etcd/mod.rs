//! A client for the part of etcd that a fleet needs, over its JSON gateway.
//!
//! 1. Each request is a `POST` of JSON to one endpoint. Keys and values are base64, 64-bit numbers are texts, and fields with
//!    their default are left out.
//! 2. A request that an endpoint does not answer in time goes to the next, until each has been asked once. So every request
//!    here may be carried out twice, and does no harm then.
//! 3. A watch is an answer that does not end: one message a line.

mod client;
mod failure;
mod watch;
mod wire;

pub(crate) use client::{Etcd, Put};
pub(crate) use failure::EtcdFailure;
pub(crate) use watch::Watch;
pub(crate) use wire::{Change, KeyValue};
