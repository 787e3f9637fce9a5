//! `notify-keyspace-events`: the letters of the classes of events, as Redis reads and writes them.

use dormouse_shard::keyspace::changes::EventClass;
use dormouse_shard::keyspace::notices::{CLASSES_BESIDE_ALL, CLASSES_OF_ALL, Classes};

/// The classes with letters of their own, in the order in which Redis writes them.
fn classes() -> impl Iterator<Item = EventClass> {
    CLASSES_OF_ALL.into_iter().chain(CLASSES_BESIDE_ALL)
}

/// The letters of the kinds of channels, and of the class that is written among them.
const CHANNELS: [(char, Classes); 7] = [
    ('K', Classes::KEYSPACE),
    ('E', Classes::KEYEVENT),
    ('m', Classes::of(&[EventClass::KeyMiss])),
    ('S', Classes::SUBKEYSPACE),
    ('T', Classes::SUBKEYEVENT),
    ('I', Classes::SUBKEYSPACE_ITEM),
    ('V', Classes::SUBKEYSPACE_EVENT),
];

pub fn read(text: &str) -> Result<Classes, String> {
    let of_class = |letter| classes().find(|class| class.letter() == letter).map(|class| Classes::of(&[class]));
    let class = |letter| match letter {
        'A' => Some(Classes::ALL),
        _ => CHANNELS.iter().find(|(of, _)| *of == letter).map(|(_, class)| *class).or_else(|| of_class(letter)),
    };
    let chosen = text.chars().map(class).try_fold(Classes::NONE, |all, class| Some(all.with(class?)));
    chosen.ok_or_else(|| "Invalid event class character. Use 'Ag$lshzxeKEtmdnocaSTIV'.".to_string())
}

/// Redis's text. It leaves out `n`, `o` and `c` where there is an `A`.
pub fn text(chosen: Classes) -> String {
    let mut text = String::new();
    if chosen.has(Classes::ALL) {
        text.push('A');
    } else {
        let has = |class: &EventClass| chosen.has(Classes::of(&[*class]));
        text.extend(classes().filter(has).map(EventClass::letter));
    }
    text.extend(CHANNELS.into_iter().filter(|(_, class)| chosen.has(*class)).map(|(letter, _)| letter));
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
            ("aonc", "anoc"),
            ("KAoc", "AK"),
            ("hVITSmKE", "hKEmSTIV"),
            ("nmdtexzhsl$KE", "$lshzxetdnKEm"),
            ("nmdextzhslgKE", "glshzxetdnKEm"),
        ] {
            assert_eq!(read(set).map(text).as_deref(), Ok(shown), "{set}");
        }
        for wrong in ["xyz", "q", "K E", "ä"] {
            assert_eq!(read(wrong), Err("Invalid event class character. Use 'Ag$lshzxeKEtmdnocaSTIV'.".to_string()));
        }
    }
}
