//! Rules as tables: what they make of a user, what they permit, and what is kept of them.

use dormouse_protocol::OwnedRequest;
use dormouse_shard::commands::Category;
use proptest::prelude::*;

use super::security_log::{DenialContext, DenialReason, Growth};
use super::selector::RulesForm;
use super::*;
use crate::account;
use crate::commands::SUBJECTS;

fn user(rules: &str) -> Result<User, String> {
    let mut user = User::new(b"u", 1, &SUBJECTS);
    let words = rules.split(' ').filter(|word| !word.is_empty()).map(str::as_bytes);
    let joined = user::join_selectors(words).map_err(|word| String::from_utf8_lossy(word).into_owned())?;
    joined.iter().try_for_each(|rule| user.apply(rule, &SUBJECTS)).map_err(|error| error.to_string())?;
    Ok(user)
}

fn described(user: &User) -> String {
    String::from_utf8(user.describe(RulesForm::Kept)).unwrap().strip_prefix("user u ").unwrap().to_string()
}

/// Checks a request as `user`. `-` if it is permitted, else the text of `ACL DRYRUN`.
fn dry_run(user: &User, line: &str) -> String {
    let words: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
    let full = format!("{}|{}", words[0].escape_ascii(), words.get(1).unwrap_or(&&b""[..]).escape_ascii());
    let subject = SUBJECTS.find(full.as_bytes()).or_else(|| SUBJECTS.find(words[0])).unwrap();
    let request = OwnedRequest::from_args(&words);
    match user.check(subject, request.as_request(), 0) {
        Ok(()) => "-".to_string(),
        Err(denial) => String::from_utf8(denial.verbose(&user.name, subject, request.as_request())).unwrap(),
    }
}

#[test]
fn rules_make_users() {
    let secret = "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b";
    for (rules, expected) in [
        ("", "off sanitize-payload resetchannels -@all"),
        ("on nopass ~* &* +@all", "on nopass sanitize-payload ~* &* +@all"),
        ("allkeys allchannels allcommands skip-sanitize-payload", "off skip-sanitize-payload ~* &* +@all"),
        (">secret on", &format!("on sanitize-payload #{secret} resetchannels -@all")),
        (&format!(">secret #{secret} nopass"), "off nopass sanitize-payload resetchannels -@all"),
        (&format!(">secret !{secret}"), "off sanitize-payload resetchannels -@all"),
        (">secret <secret nopass >secret resetpass", "off sanitize-payload resetchannels -@all"),
        ("~a* ~b %R~c %W~c %W~d %rw~e ~a*", "off sanitize-payload ~a* ~b ~c %W~d ~e resetchannels -@all"),
        ("%R~* ~a %W~*", "off sanitize-payload %RW~* ~a resetchannels -@all"),
        ("&a &b* &a", "off sanitize-payload resetchannels &a &b* -@all"),
        ("+get +SET -get", "off sanitize-payload resetchannels -@all +set -get"),
        ("+config|get -config +config|set", "off sanitize-payload resetchannels -@all -config +config|set"),
        ("+@read -@Write +get +@read", "off sanitize-payload resetchannels -@all -@write +get +@read"),
        ("+@all -select +select|0 +select|1", "off sanitize-payload resetchannels +@all -select +select|0 +select|1"),
        ("+select|0 +select", "off sanitize-payload resetchannels -@all +select"),
        ("+get nocommands +set", "off sanitize-payload resetchannels -@all +set"),
        ("db=3,1,3", "off sanitize-payload resetchannels db=1,3 -@all"),
        ("db=3 resetdbs", "off sanitize-payload resetchannels resetdbs -@all"),
        ("db=3 alldbs", "off sanitize-payload resetchannels -@all"),
        (
            "+get ~k (~s* &c +set) ( %R~x +@read )",
            "off sanitize-payload ~k resetchannels -@all +get (~s* resetchannels &c -@all +set) \
             (%R~x resetchannels -@all +@read)",
        ),
        ("(+get) clearselectors", "off sanitize-payload resetchannels -@all"),
        (">secret on ~* +@all (+get) reset", "off sanitize-payload resetchannels -@all"),
    ] {
        assert_eq!(user(rules).map(|user| described(&user)).as_deref(), Ok(expected), "{rules}");
    }
}

#[test]
fn rules_without_sense_are_refused() {
    for (rules, problem) in [
        ("nope", "Syntax error"),
        ("%", "Syntax error"),
        ("%X~a", "Syntax error"),
        ("%RR~a", "Syntax error"),
        ("~a\tb", "Syntax error"),
        ("db=", "Syntax error"),
        ("db=1,x", "Syntax error"),
        ("db=-1", "The provided database ID is out of range"),
        ("+nope", "Unknown command or category name in ACL"),
        ("+", "Unknown command or category name in ACL"),
        ("-@nope", "Unknown command or category name in ACL"),
        ("+@", "Unknown command or category name in ACL"),
        ("-select|0", "Unknown command or category name in ACL"),
        ("+config|nope", "Unknown command or category name in ACL"),
        ("+config|get|x", "Allowing first-arg of a subcommand is not supported"),
        ("+select|", "Syntax error"),
        ("<secret", "The password you are trying to remove from the user does not exist"),
        ("#abc", "The password hash must be exactly 64 characters and contain only lowercase hexadecimal characters"),
        ("(+get +nope)", "Unknown command or category name in ACL"),
        ("(on)", "Syntax error"),
        ("(+get", "(+get"),
    ] {
        assert_eq!(user(rules).map(|user| described(&user)), Err(problem.to_string()), "{rules}");
    }
    for (rules, begins) in
        [("~* ~a", "Adding a pattern after the * pattern"), ("&* &a", "Adding a pattern after the *")]
    {
        assert!(user(rules).unwrap_err().starts_with(begins), "{rules}");
    }
}

#[test]
fn rules_permit_requests() {
    let no = |command: &str| format!("User u has no permissions to run the '{command}' command");
    let no_key = |key: &str| format!("User u has no permissions to access the '{key}' key");
    let no_channel = |channel: &str| format!("User u has no permissions to access the '{channel}' channel");
    let permitted = || "-".to_string();
    for (rules, line, expected) in [
        ("", "GET k", no("get")),
        ("", "AUTH x", permitted()),
        ("+get", "GET k", no_key("k")),
        ("+get ~k", "GET k", permitted()),
        ("+get ~k*", "GET l", no_key("l")),
        ("+mget ~a ~b", "MGET a b c", no_key("c")),
        ("+@all -get ~*", "GET k", no("get")),
        ("+@all -@write ~*", "SET k v", no("set")),
        ("+@read ~*", "SET k v", no("set")),
        // Reading and writing.
        ("+@all %R~k", "GET k", permitted()),
        ("+@all %W~k", "GET k", no_key("k")),
        ("+@all %R~k", "SET k v", no_key("k")),
        ("+@all %W~k", "SET k v", permitted()),
        ("+@all %W~k", "SET k v GET", no_key("k")),
        ("+@all %R~k %W~k", "SET k v GET", permitted()),
        ("+@all %R~a %W~b", "COPY a b", permitted()),
        ("+@all %R~a %W~b", "COPY b a", no_key("b")),
        ("+@all %R~a", "EXISTS a", permitted()),
        ("+@all %R~s* %W~d", "ZUNIONSTORE d 2 s1 s2", permitted()),
        ("+@all %R~s* %W~d", "ZUNIONSTORE s1 1 d", no_key("s1")),
        // Subcommands and first arguments.
        ("+config|get", "CONFIG GET x", permitted()),
        ("+config|get", "CONFIG SET x y", no("config|set")),
        ("+config -config|set", "CONFIG SET x y", no("config|set")),
        ("+select|0", "SELECT 0", permitted()),
        ("+select|0", "SELECT 1", no("select")),
        ("+@all -select +select|5", "SELECT 5", permitted()),
        ("+select|0 -select", "SELECT 0", no("select")),
        // Channels.
        ("+publish", "PUBLISH c m", no_channel("c")),
        ("+publish &c*", "PUBLISH cc m", permitted()),
        ("+@all &a", "SUBSCRIBE a b", no_channel("b")),
        ("+@all &a*", "PSUBSCRIBE a*", permitted()),
        ("+@all &a*", "PSUBSCRIBE ab*", no_channel("ab*")),
        ("+@all &a*", "PUNSUBSCRIBE b", permitted()),
        // Selectors permit a request together or not at all; of several denials, the one that says most is told.
        ("+get ~a (+set ~b)", "SET b v", permitted()),
        ("+get ~a (+set ~b)", "SET a v", no_key("a")),
        ("+get ~a (+set ~b)", "DEL a", no("del")),
        ("+mget ~a (+mget ~a ~b)", "MGET a b c", no_key("c")),
        ("(+@all ~x) +@all &y", "PUBLISH c m", no_channel("c")),
        // Logical databases: these are asked for in number 0.
        ("+@all ~* db=0", "KEYS *", permitted()),
        ("+@all ~* db=0", "FLUSHALL", "No permissions to access database".to_string()),
        ("+@all ~* db=0,1", "SWAPDB 0 1", permitted()),
        ("+@all ~* db=1", "GET k", "No permissions to access database".to_string()),
        ("+@all ~* db=1", "KEYS *", "No permissions to access database".to_string()),
        ("+@all ~* db=1", "SCAN 0", "No permissions to access database".to_string()),
        ("+@all ~* db=1", "RANDOMKEY", "No permissions to access database".to_string()),
        ("+@all ~* db=1", "DBSIZE", "No permissions to access database".to_string()),
        ("+@all ~* db=1", "SELECT 1", permitted()),
        ("+@all ~* db=1", "SELECT 2", "No permissions to access database".to_string()),
        ("+@all ~* db=1", "PING", permitted()),
        // Keys that SORT finds by itself.
        ("+@all ~l", "SORT l", permitted()),
        ("+@all ~l", "SORT l BY nosort", permitted()),
        ("+@all ~l", "SORT l BY w_*", "ERR BY option of SORT denied due to insufficient ACL permissions.".to_string()),
        (
            "+@all ~l",
            "SORT_RO l GET x*",
            "ERR GET option of SORT denied due to insufficient ACL permissions.".to_string(),
        ),
        ("+@all %R~*", "SORT_RO l BY w_*", permitted()),
        ("+@all ~l %W~d", "SORT l STORE d", permitted()),
        ("+@all ~l", "SORT l STORE d", no_key("d")),
    ] {
        assert_eq!(dry_run(&user(rules).unwrap(), line), expected, "{rules}: {line}");
    }
}

#[test]
fn an_unrestricted_user_needs_no_check() {
    for (rules, expected) in [
        ("+@all ~* &*", true),
        ("+@all ~* &* -get +get", false),
        ("+@all ~*", false),
        ("+@all ~* &* db=0", false),
        ("-@all (+@all ~* &*)", true),
    ] {
        assert_eq!(user(rules).unwrap().is_unrestricted(), expected, "{rules}");
    }
}

#[test]
fn kept_users_come_back() {
    let mut users = Users::new();
    for (name, rules) in [
        (&b"default"[..], "on nopass ~* &* +@all"),
        (b"app", "on >a >b ~app:* &news* +@all -@dangerous +keys -select +select|3 (%R~x +get) db=0,2"),
        (b"\xff\\n\xe4", "on nopass ~\\x* +get"),
    ] {
        let mut user = user(rules).unwrap();
        user.name = name.into();
        users.insert(name.into(), Arc::new(user));
    }
    let text = Acl::text_of(&users).unwrap();
    assert!(text.is_ascii() && text.lines().count() == 3, "{text}");
    let (back, problems) = stored::decode(&text, &SUBJECTS, || 7);
    assert_eq!(problems, [""; 0]);
    let lines = |users: &Users| users.values().map(|user| user.describe(RulesForm::Kept)).collect::<Vec<_>>();
    assert_eq!(lines(&back), lines(&users));
    assert!(back[&b"app"[..]].has_password(PasswordHash::of(b"b")));
    assert!(!back[&b"app"[..]].has_password(PasswordHash::of(b"c")));
}

/// A user that this version does not understand has no right, rather than too many.
#[test]
fn users_that_cannot_be_read_are_disabled() {
    let text =
        "user default on nopass ~* &* +@all\nuser a on nopass ~* +@all -futurecommand\nuser b on +@all (~x\n\\x\n";
    let (users, problems) = stored::decode(text, &SUBJECTS, || 7);
    assert_eq!(problems.len(), 3, "{problems:?}");
    for name in [&b"a"[..], b"b"] {
        let user = &users[name];
        assert!(!user.is_enabled && !user.is_nopass && dry_run(user, "GET k") != "-");
    }
    assert!(users[DEFAULT_USER].is_unrestricted());
    let (users, problems) = stored::decode("", &SUBJECTS, || 7);
    assert_eq!(problems.len(), 1);
    assert!(!users[DEFAULT_USER].is_enabled);
}

#[test]
fn users_are_charged_and_bounded() {
    let account = Account::new(account::OF_DATABASE, usize::MAX);
    let acl = Acl::new("shop", &SUBJECTS, None, &account);
    assert_eq!(account.used(), 0);
    let mut users = Users::clone(&acl.users());
    users.insert(b"u"[..].into(), Arc::new(user("~a*b*c").unwrap()));
    acl.publish(users.clone());
    assert!(account.used() > 1000);
    let patterns: Vec<String> = (0..3000).map(|n| format!("~*{n}*{n}")).collect();
    users.insert(b"u"[..].into(), Arc::new(user(&patterns.join(" ")).unwrap()));
    assert_eq!(Acl::text_of(&users), Err(TooLarge(BYTES_MAX)));
    acl.adopt("shop", None);
    assert_eq!(account.used(), 0);
    fn denied(object: &[u8]) -> Denied<'_> {
        Denied { reason: DenialReason::Key, origin: DenialContext::Multi, object, user: b"u" }
    }
    for n in 0..1000_u32 {
        acl.note(denied(&n.to_be_bytes()), "client".to_string(), 0, 50);
    }
    assert!(account.used() < 50 * 300, "{}", account.used());
    assert_eq!(acl.log.newest(usize::MAX).len(), 50);
    acl.truncate_log(10);
    assert_eq!(acl.log.newest(usize::MAX).len(), 10);
    acl.clear_log();
    assert_eq!((account.used(), acl.log.count(DenialReason::Key)), (0, 1000));
}

#[test]
fn alike_denials_are_one_entry() {
    let log = SecurityLog::default();
    let denied = |object| Denied { reason: DenialReason::Auth, origin: DenialContext::Toplevel, object, user: b"u" };
    log.note(denied(b"a"), "one".into(), 1000, 128);
    log.note(denied(b"b"), "two".into(), 2000, 128);
    let Growth { taken, given } = log.note(denied(b"a"), "four".into(), 3000, 128);
    assert_eq!(taken - given, 1);
    let entries = log.newest(10);
    let told = |entry: &security_log::LoggedDenial| (entry.id, entry.count, entry.created_ms, entry.updated_ms);
    assert_eq!(entries.iter().map(told).collect::<Vec<_>>(), [(0, 2, 1000, 3000), (1, 1, 2000, 2000)]);
    assert_eq!(entries[0].client, "four");
    log.note(denied(b"a"), String::new(), 63_001, 128);
    assert_eq!(log.newest(1)[0].id, 2);
    assert_eq!(
        log.note(denied(b"a"), String::new(), 63_001, 0).taken,
        log.note(denied(b"a"), String::new(), 0, 0).given
    );
}

#[test]
fn passwords_are_kept_as_redis_keeps_them() {
    let hash = PasswordHash::of(b"secret");
    let text = "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b";
    assert_eq!(hash.to_string(), text);
    assert_eq!(PasswordHash::parse(text.as_bytes()), Some(hash));
    assert_eq!(PasswordHash::parse(text.to_uppercase().as_bytes()), None);
    assert!(!format!("{hash:?}").contains("2bb8"));
    assert_eq!(password::generate(5).len(), 5);
    assert_ne!(password::generate(64), password::generate(64));
}

fn rule() -> impl Strategy<Value = String> {
    let names: Vec<String> = SUBJECTS.iter().map(|subject| subject.name.to_string()).collect();
    let categories: Vec<String> = Category::all().names().map(str::to_string).collect();
    let target = prop_oneof![proptest::sample::select(names), proptest::sample::select(categories)];
    prop_oneof![
        4 => (any::<bool>(), target).prop_map(|(allow, target)| format!("{}{target}", if allow { "+" } else { "-" })),
        1 => "[~&][a-c*]{0,4}",
        1 => "%(R|W|RW)~[a-c*]{0,3}",
        1 => "\\+(select|get|set)\\|[a-c0-3]",
        1 => proptest::sample::select(vec!["resetkeys", "resetchannels", "+@all", "-@all", "db=1,2", "alldbs"])
            .prop_map(str::to_string),
    ]
}

proptest! {
    /// A description is a rule set that makes the same user.
    #[test]
    fn descriptions_are_rules(rules in proptest::collection::vec(rule(), 0..12)) {
        let mut first = User::new(b"u", 1, &SUBJECTS);
        for rule in &rules {
            // Some make no sense after others.
            let _ = first.apply(rule.as_bytes(), &SUBJECTS);
        }
        let second = user(&described(&first)).unwrap();
        prop_assert_eq!(described(&second), described(&first));
        for subject in SUBJECTS.iter() {
            let request = OwnedRequest::from_args(&[b"x", b"a", b"1", b"b"]);
            let checked = |user: &User| user.check(subject, request.as_request(), 1);
            prop_assert_eq!(checked(&first), checked(&second), "{}", &subject.name);
        }
    }

    #[test]
    fn noise_is_no_user(text: String, rule: Vec<u8>) {
        let _ = stored::decode(&text, &SUBJECTS, || 0);
        let _ = User::new(b"u", 1, &SUBJECTS).apply(&rule, &SUBJECTS);
    }
}
