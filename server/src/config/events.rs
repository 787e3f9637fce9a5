//! `notify-keyspace-events`: the letters of the classes of events, as Redis reads and writes them.

use dormouse_shard::keyspace::changes::EventClass;
use dormouse_shard::keyspace::notices::{CLASSES_OF_ALL, Classes};

/// The classes with letters of their own, in the order in which Redis writes them.
fn classes() -> impl Iterator<Item = EventClass> {
    CLASSES_OF_ALL.into_iter().chain([EventClass::New])
}

pub fn read(text: &str) -> Result<Classes, String> {
    let class = |letter| match letter {
        'A' => Some(Classes::ALL),
        'K' => Some(Classes::KEYSPACE),
        'E' => Some(Classes::KEYEVENT),
        'm' => Some(Classes::of(&[EventClass::KeyMiss])),
        _ => classes().find(|class| class.letter() == letter).map(|class| Classes::of(&[class])),
    };
    let chosen = text.chars().map(class).try_fold(Classes::NONE, |all, class| Some(all.with(class?)));
    chosen.ok_or_else(|| "Invalid event class character. Use 'Ag$lshzxeKEtmdn'.".to_string())
}

/// Redis's text. It leaves out `n` where there is an `A`.
pub fn text(chosen: Classes) -> String {
    let mut text = String::new();
    if chosen.has(Classes::ALL) {
        text.push('A');
    } else {
        let has = |class: &EventClass| chosen.has(Classes::of(&[*class]));
        text.extend(classes().filter(has).map(EventClass::letter));
    }
    let rest = [('K', Classes::KEYSPACE), ('E', Classes::KEYEVENT), ('m', Classes::of(&[EventClass::KeyMiss]))];
    text.extend(rest.into_iter().filter(|(_, class)| chosen.has(*class)).map(|(letter, _)| letter));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_those_of_redis() {
        for (set, shown) in [
            ("", ""),
            ("A", "A"),
            ("KEA", "AKE"),
            ("AKEn", "AKE"),
            ("KEAmn", "AKEm"),
            ("Kg", "gK"),
            ("nmK", "nKm"),
            ("E$", "$E"),
            ("g$lshztxedKE", "g$lshzxetdKE"),
            ("ag$lshztxedKE", "AKE"),
            ("aK", "aK"),
            ("nmdtexzhsl$KE", "$lshzxetdnKEm"),
            ("nmdextzhslgKE", "glshzxetdnKEm"),
        ] {
            assert_eq!(read(set).map(text).as_deref(), Ok(shown), "{set}");
        }
        for wrong in ["xyz", "q", "K E", "ä"] {
            assert_eq!(read(wrong), Err("Invalid event class character. Use 'Ag$lshzxeKEtmdn'.".to_string()));
        }
    }
}
