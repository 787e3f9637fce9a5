//! Files that change.

use super::files::tests::{Authority, write};
use super::*;

#[test]
fn changed_files_are_used_when_they_have_settled_and_broken_ones_are_not() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let files = authority.files(folder.path(), "one");
    let (tls, mut watch) = Tls::open(files.clone()).unwrap();
    let first = tls.for_redis();
    let is_first = || Arc::ptr_eq(&first, &tls.for_redis());
    watch.look();
    assert!(is_first() && tls.reloads() == 0);
    // The certificate comes first, and its key a little later.
    let (certificate, key) = authority.issue("two");
    write(&files.certificate, &certificate);
    watch.look();
    write(&files.key, &key);
    watch.look();
    assert!(is_first() && !tls.is_stale(), "they have just changed");
    watch.look();
    assert!(!is_first() && tls.reloads() == 1);
    let second = tls.for_redis();
    write(&files.key, "nonsense");
    (0..5).for_each(|_| watch.look());
    assert!(Arc::ptr_eq(&second, &tls.for_redis()) && tls.is_stale() && tls.reloads() == 1);
    std::fs::remove_file(&files.certificate).unwrap();
    (0..5).for_each(|_| watch.look());
    assert!(Arc::ptr_eq(&second, &tls.for_redis()) && tls.is_stale());
    authority.files(folder.path(), "three");
    (0..2).for_each(|_| watch.look());
    assert!(!Arc::ptr_eq(&second, &tls.for_redis()) && !tls.is_stale() && tls.reloads() == 2);
}

/// Kubernetes exchanges the folder that the files of a Secret are links into.
#[test]
fn an_exchanged_link_is_a_change() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let [one, two, current] = ["one", "two", "current"].map(|name| folder.path().join(name));
    for (place, name) in [(&one, "one"), (&two, "two")] {
        std::fs::create_dir(place).unwrap();
        authority.files(place, name);
    }
    std::os::unix::fs::symlink(&one, &current).unwrap();
    let files = TlsFiles {
        certificate: current.join("tls.crt"),
        key: current.join("tls.key"),
        authorities: None,
        client_certificates: ClientCertificates::No,
    };
    let (tls, mut watch) = Tls::open(files).unwrap();
    let next = folder.path().join("next");
    std::os::unix::fs::symlink(&two, &next).unwrap();
    std::fs::rename(&next, &current).unwrap();
    (0..2).for_each(|_| watch.look());
    assert_eq!(tls.reloads(), 1);
}
