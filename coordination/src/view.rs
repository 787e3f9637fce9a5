//! The keys of a fleet as this process knows them, and the channels on which it publishes them.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::watch;
use tracing::warn;

use crate::etcd::{Change, KeyValue};
use crate::keys::{Keys, Meaning, number};
use crate::member::{FleetMember, FleetMembers};

const NODES_MAX: usize = 16_384;
const TOPICS_MAX: usize = 1_024;
pub(crate) const MEMBER_LENGTH_MAX: usize = 16 << 10;
const SECRET_LENGTH_MAX: usize = 1 << 10;

/// The key of this process's own name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct OwnKey {
    /// The key was so in this revision.
    pub(crate) revision: i64,
    /// The writer in its value, and the revision of its last change. Nothing if the key does not exist or cannot be read.
    pub(crate) holder: Option<(u64, i64)>,
}

/// The published part of a view. One task writes it, others read it.
pub(crate) struct Published {
    pub(crate) members: watch::Sender<Arc<FleetMembers>>,
    pub(crate) own: watch::Sender<OwnKey>,
    topics: Mutex<HashMap<String, watch::Sender<u64>>>,
    secret: Mutex<Arc<str>>,
}

impl Published {
    pub(crate) fn new(secret: Arc<str>) -> Self {
        Self {
            members: watch::Sender::new(Arc::default()),
            own: watch::Sender::new(OwnKey::default()),
            topics: Mutex::default(),
            secret: Mutex::new(secret),
        }
    }

    pub(crate) fn secret(&self) -> Arc<str> {
        Arc::clone(&self.secret.lock())
    }

    pub(crate) fn set_secret(&self, secret: Arc<str>) {
        *self.secret.lock() = secret;
    }

    pub(crate) fn heard(&self, topic: &str) -> watch::Receiver<u64> {
        let mut topics = self.topics.lock();
        topics.entry(topic.to_owned()).or_insert_with(|| watch::Sender::new(0)).subscribe()
    }

    /// Takes over the number of a topic if it is larger.
    fn hear(&self, topic: &str, number: u64) {
        let mut topics = self.topics.lock();
        if let Some(heard) = topics.get(topic) {
            heard.send_if_modified(|known| {
                let is_larger = number > *known;
                *known = number.max(*known);
                is_larger
            });
        } else if topics.len() < TOPICS_MAX {
            topics.insert(topic.to_owned(), watch::Sender::new(number));
        } else {
            warn!(topic, "ignored a topic: the fleet has more than {TOPICS_MAX}");
        }
    }
}

/// The nodes of a fleet in one revision of etcd.
pub(crate) struct View {
    keys: Keys,
    own_name: String,
    /// By name; with the revision of the last change of the key.
    nodes: BTreeMap<String, (Arc<FleetMember>, i64)>,
    revision: i64,
    published: Arc<Published>,
}

impl View {
    pub(crate) fn new(keys: Keys, own_name: String, published: Arc<Published>) -> Self {
        Self { keys, own_name, nodes: BTreeMap::new(), revision: 0, published }
    }

    /// Replaces everything by all keys of one revision. Numbers of topics still only grow.
    pub(crate) fn replace(&mut self, keys: &[KeyValue], revision: i64) {
        self.nodes.clear();
        keys.iter().for_each(|kv| self.put(kv));
        self.revision = revision;
        self.publish(true);
    }

    /// Applies changes that follow the view's revision, in their order.
    pub(crate) fn apply(&mut self, changes: &[Change]) {
        for change in changes {
            let revision = match change {
                Change::Put(kv) => {
                    self.put(kv);
                    kv.mod_revision
                }
                Change::Delete { key, revision } => {
                    if let Some(Meaning::Node(name)) = self.keys.meaning(key) {
                        self.nodes.remove(name);
                    }
                    *revision
                }
            };
            self.revision = self.revision.max(revision);
        }
        if !changes.is_empty() {
            self.publish(false);
        }
    }

    fn put(&mut self, kv: &KeyValue) {
        match self.keys.meaning(&kv.key) {
            Some(Meaning::Node(name)) => match read_member(name, &kv.value) {
                Some(_) if self.nodes.len() >= NODES_MAX && !self.nodes.contains_key(name) => {
                    warn!(name, "ignored a member: the fleet has more than {NODES_MAX}");
                }
                Some(member) => {
                    self.nodes.insert(name.to_owned(), (Arc::new(member), kv.mod_revision));
                }
                None => {
                    warn!(name, "ignored a member whose key cannot be read");
                    self.nodes.remove(name);
                }
            },
            Some(Meaning::Topic(topic)) => match number(&kv.value) {
                Some(number) => self.published.hear(topic, number),
                None => warn!(topic, "ignored a topic whose value is not a number"),
            },
            Some(Meaning::Secret) => match read_secret(&kv.value) {
                Some(secret) => self.published.set_secret(secret),
                None => warn!("ignored a secret that cannot be read"),
            },
            None => {}
        }
    }

    /// The own key is always announced after everything was read: it may have come and gone since.
    fn publish(&self, announces_own: bool) {
        let holder = self.nodes.get(&self.own_name).map(|(member, revision)| (member.writer, *revision));
        self.published.own.send_if_modified(|own| {
            let is_news = announces_own || own.holder != holder;
            *own = OwnKey { revision: self.revision, holder };
            is_news
        });
        let members: FleetMembers = self.nodes.values().map(|(member, _)| Arc::clone(member)).collect();
        self.published.members.send_if_modified(|published| {
            let is_news = **published != members;
            if is_news {
                *published = Arc::new(members);
            }
            is_news
        });
    }
}

/// Returns nothing if the value is no member of this name.
pub(crate) fn read_member(name: &str, value: &[u8]) -> Option<FleetMember> {
    if value.len() > MEMBER_LENGTH_MAX {
        return None;
    }
    serde_json::from_slice::<FleetMember>(value).ok().filter(|member| member.name == name)
}

/// Returns nothing if the value is no secret.
pub(crate) fn read_secret(value: &[u8]) -> Option<Arc<str>> {
    if value.is_empty() || value.len() > SECRET_LENGTH_MAX {
        return None;
    }
    std::str::from_utf8(value).ok().map(Arc::from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::number_text;

    fn view() -> (View, Arc<Published>) {
        let published = Arc::new(Published::new("first".into()));
        (View::new(Keys::new("p"), "a".to_owned(), Arc::clone(&published)), published)
    }

    fn node(name: &str, writer: u64, revision: i64) -> KeyValue {
        let value = format!(r#"{{"name":"{name}","writer":{writer},"advertise":"x:1"}}"#);
        KeyValue { key: format!("p/nodes/{name}").into_bytes(), value: value.into_bytes(), mod_revision: revision }
    }

    fn other(key: &str, value: impl Into<Vec<u8>>) -> KeyValue {
        KeyValue { key: key.as_bytes().to_vec(), value: value.into(), mod_revision: 1 }
    }

    fn deletion(name: &str, revision: i64) -> Change {
        Change::Delete { key: format!("p/nodes/{name}").into_bytes(), revision }
    }

    fn writers(published: &Published) -> Vec<u64> {
        published.members.borrow().iter().map(|member| member.writer).collect()
    }

    #[test]
    fn changes_are_applied_in_order() {
        let (mut view, published) = view();
        view.replace(&[node("b", 2, 4), node("a", 1, 3)], 5);
        assert_eq!(writers(&published), [1, 2]);
        assert_eq!(*published.own.borrow(), OwnKey { revision: 5, holder: Some((1, 3)) });
        view.apply(&[Change::Put(node("c", 3, 6)), deletion("b", 7), Change::Put(node("a", 9, 8))]);
        assert_eq!(writers(&published), [9, 3]);
        assert_eq!(*published.own.borrow(), OwnKey { revision: 8, holder: Some((9, 8)) });
        view.apply(&[deletion("a", 9)]);
        assert_eq!(*published.own.borrow(), OwnKey { revision: 9, holder: None });
        view.replace(&[], 20);
        assert!(published.members.borrow().is_empty());
    }

    #[test]
    fn subscribers_hear_only_of_differences() {
        let (mut view, published) = view();
        view.replace(&[node("a", 1, 3)], 5);
        let (mut members, mut own) = (published.members.subscribe(), published.own.subscribe());
        view.apply(&[Change::Put(other("p/topics/x", number_text(3)))]);
        view.apply(&[]);
        assert!(!members.has_changed().unwrap() && !own.has_changed().unwrap());
        view.replace(&[node("a", 1, 3)], 6);
        assert!(!members.has_changed().unwrap() && own.has_changed().unwrap());
        own.mark_unchanged();
        view.apply(&[Change::Put(node("b", 2, 7))]);
        assert!(members.has_changed().unwrap() && !own.has_changed().unwrap());
        members.mark_unchanged();
    }

    #[test]
    fn values_that_cannot_be_read_are_passed_over() {
        let (mut view, published) = view();
        let mut wrong_name = node("b", 2, 4);
        wrong_name.key = b"p/nodes/c".to_vec();
        let long = other("p/nodes/d", vec![b'{'; MEMBER_LENGTH_MAX + 1]);
        let secrets = [other("p/secret", ""), other("p/secret", *b"\xff"), other("p/secret", vec![b'x'; 2000])];
        let nodes = [wrong_name, long, other("p/nodes/e", "[]"), other("p/what", "x"), node("a", 1, 2)];
        view.replace(&nodes.into_iter().chain(secrets).collect::<Vec<_>>(), 5);
        assert_eq!((writers(&published), &*published.secret()), (vec![1], "first"));
        view.apply(&[Change::Put(other("p/nodes/a", "null")), Change::Put(other("p/secret", "second"))]);
        assert_eq!((writers(&published), &*published.secret()), (vec![], "second"));
        assert_eq!(published.own.borrow().holder, None);
    }

    #[test]
    fn topics_only_grow() {
        let (mut view, published) = view();
        let heard = published.heard("x");
        for (text, expected) in
            [(number_text(5), 5), (number_text(3), 5), ("9".into(), 5), (number_text(u64::MAX), u64::MAX)]
        {
            view.apply(&[Change::Put(other("p/topics/x", text))]);
            assert_eq!(*heard.borrow(), expected);
        }
        view.replace(&[other("p/topics/x", number_text(1)), other("p/topics/y", number_text(2))], 9);
        assert_eq!((*heard.borrow(), *published.heard("y").borrow()), (u64::MAX, 2));
    }
}
