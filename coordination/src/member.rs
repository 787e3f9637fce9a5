//! The members of a fleet at one moment.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// One process of a fleet, as it describes itself. In etcd it is JSON; fields that are not known are passed over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FleetMember {
    /// The node's name, unique in the fleet: 1 to 200 letters, digits, `.`, `_` and `-`.
    pub name: String,
    /// The writer that this process has in its run of owner records. Each process of a name has another one.
    pub writer: u64,
    /// The `HOST:PORT` at which other nodes reach this one.
    pub advertise: String,
    /// The `HOST:PORT` of its HTTP API.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// Whether the node gives its databases away, and takes no new ones.
    #[serde(default)]
    pub is_draining: bool,
    /// The version of its program.
    #[serde(default)]
    pub version: String,
}

/// All members at one moment, ordered by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FleetMembers {
    by_name: BTreeMap<String, Arc<FleetMember>>,
    by_writer: HashMap<u64, Arc<FleetMember>>,
}

impl FleetMembers {
    pub fn named(&self, name: &str) -> Option<&Arc<FleetMember>> {
        self.by_name.get(name)
    }

    pub fn of_writer(&self, writer: u64) -> Option<&Arc<FleetMember>> {
        self.by_writer.get(&writer)
    }

    /// The members in the order of their names.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Arc<FleetMember>> {
        self.by_name.values()
    }

    pub fn len(&self) -> usize {
        self.by_name.len()
    }

    pub fn is_empty(&self) -> bool {
        self.by_name.is_empty()
    }
}

impl FromIterator<Arc<FleetMember>> for FleetMembers {
    fn from_iter<I: IntoIterator<Item = Arc<FleetMember>>>(members: I) -> Self {
        let mut all = Self::default();
        for member in members {
            all.by_writer.insert(member.writer, Arc::clone(&member));
            all.by_name.insert(member.name.clone(), member);
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Old versions must read new members, and new versions old ones.
    #[test]
    fn the_format_of_a_member_is_fixed() {
        let text = r#"{"name":"a","writer":18446744073709551615,"advertise":"10.0.0.1:6379"}"#;
        let member: FleetMember = serde_json::from_str(text).unwrap();
        assert_eq!((member.writer, member.http.as_deref(), member.is_draining), (u64::MAX, None, false));
        let text =
            r#"{"name":"a","writer":1,"advertise":"b:2","http":"b:3","zone":"z","is_draining":true,"version":"0.2.0"}"#;
        let member: FleetMember = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&member).unwrap(), text);
        let newer = text.replace("\"zone\"", "\"rack\":[1,{}],\"zone\"");
        assert_eq!(serde_json::from_str::<FleetMember>(&newer).unwrap(), member);
    }

    #[test]
    fn members_are_found_by_name_and_by_writer() {
        let member = |name: &str, writer| {
            let text = format!(r#"{{"name":"{name}","writer":{writer},"advertise":"x:1"}}"#);
            Arc::new(serde_json::from_str::<FleetMember>(&text).unwrap())
        };
        let members: FleetMembers = [member("b", 7), member("a", 9)].into_iter().collect();
        let names: Vec<&str> = members.iter().map(|member| member.name.as_str()).collect();
        assert_eq!((names, members.len(), members.is_empty()), (vec!["a", "b"], 2, false));
        assert_eq!(members.of_writer(7), members.named("b"));
        assert_eq!((members.of_writer(8), members.named("c")), (None, None));
    }
}
