//! Merging a patch into a value, as RFC 7396 defines it.

use std::collections::HashMap;

use super::node::{Children, JsonNode};
use super::parse::FEW;
use super::{begin_container, end_container, put_string, tag};
use crate::pace;

/// Appends `target` with `patch` merged into it: members of the patch replace those of the same name, or remove them where
/// they are null. A patch that is no object replaces the whole.
pub fn merge(target: Option<JsonNode<'_>>, patch: JsonNode<'_>, out: &mut Vec<u8>) {
    if !patch.is_object() {
        out.extend_from_slice(patch.bytes());
        return;
    }
    let target = target.filter(|target| target.is_object());
    let start = begin_container(out, tag::OBJECT);
    let mut count = 0;
    let patches = Finder::new(patch.children());
    for (name, value) in target.iter().flat_map(|target| target.children()) {
        match patches.find(name) {
            Some(patch) if patch.tag() == tag::NULL => continue,
            Some(patch) => {
                put_string(out, name.unwrap_or_default());
                merge(Some(value), patch, out);
            }
            None => {
                put_string(out, name.unwrap_or_default());
                out.extend_from_slice(value.bytes());
            }
        }
        count += 1;
    }
    let targets = Finder::new(target.map_or_else(|| JsonNode::of(&[tag::NULL]).children(), JsonNode::children));
    for (name, patch) in patch.children() {
        if patch.tag() != tag::NULL && targets.find(name).is_none() {
            put_string(out, name.unwrap_or_default());
            merge(None, patch, out);
            count += 1;
        }
    }
    end_container(out, start, count);
}

/// Finds members by name, through a table if there are many.
struct Finder<'a> {
    members: Children<'a>,
    by_name: Option<HashMap<Option<&'a [u8]>, JsonNode<'a>>>,
}

impl<'a> Finder<'a> {
    fn new(members: Children<'a>) -> Self {
        pace::step(members.len());
        Self { members, by_name: (members.len() > FEW).then(|| members.collect()) }
    }

    fn find(&self, name: Option<&[u8]>) -> Option<JsonNode<'a>> {
        match &self.by_name {
            Some(by_name) => by_name.get(&name).copied(),
            None => {
                let mut members = self.members;
                members.find(|(other, _)| *other == name).map(|(_, value)| value)
            }
        }
    }
}
