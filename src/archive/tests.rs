use super::*;

fn passphrase(text: &str) -> SecretString {
    SecretString::from(text.to_owned())
}

fn rows() -> Vec<Row> {
    let row = |namespace: &str, key: &[u8], value: Vec<u8>| Row {
        namespace: namespace.to_owned(),
        key: Bytes::copy_from_slice(key),
        value: value.into(),
    };
    let mut rows = vec![row("registry", b"session/1", b"{}".to_vec()), row("credentials:1", b"", Vec::new())];
    // Over several chunks, and one value larger than a chunk.
    rows.extend((0..90_u8).map(|n| row("credentials:1", &[n, 0xff], vec![n; 1_500])));
    rows.push(row("outbox:1", b"e", vec![7; 200_000]));
    rows
}

fn written(rows: &[Row]) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new(), &passphrase("correct horse"), &Head::new(Kind::Backup)).unwrap();
    for row in rows {
        writer.row(&row.namespace, &row.key, &row.value).unwrap();
    }
    writer.finish().unwrap()
}

fn read(file: &[u8], text: &str) -> Result<Vec<Row>, ArchiveError> {
    let mut reader = Reader::open(file, &passphrase(text))?;
    let mut rows = Vec::new();
    while let Some(row) = reader.row()? {
        rows.push(row);
    }
    assert!(reader.row()?.is_none());
    Ok(rows)
}

#[test]
fn rows_come_back_in_order() {
    let file = written(&rows());
    assert_eq!(read(&file, "correct horse").unwrap(), rows());
    let head = Reader::open(file.as_slice(), &passphrase("correct horse")).unwrap().head().clone();
    assert_eq!((head.kind, head.program.as_str()), (Kind::Backup, env!("CARGO_PKG_VERSION")));
    assert_eq!(read(&written(&[]), "correct horse").unwrap(), []);
    // The same rows never give the same file, and nothing of them is to be seen in it.
    assert_ne!(file, written(&rows()));
    assert!(!file.windows(11).any(|part| part == b"credentials"));
}

#[test]
fn a_wrong_passphrase_is_told_as_such() {
    let file = written(&rows());
    for text in ["", "Correct horse", "correct horse "] {
        assert!(matches!(read(&file, text), Err(ArchiveError::WrongPassphrase)), "{text:?}");
    }
}

#[test]
fn a_file_that_was_cut_anywhere_is_told_as_such() {
    let file = written(&rows());
    let head = file.windows(4).position(|part| part == b"--- ").unwrap();
    let chunk = (64 << 10) + 16;
    let payload = file.len() - file.len() / chunk * chunk;
    let ends = [10, 30, head + 3, head + 20, payload - 5, payload, payload + 1, payload + chunk, payload + 2 * chunk];
    for end in ends.into_iter().chain([file.len() - chunk, file.len() - 16, file.len() - 1]) {
        let told = read(&file[..end], "correct horse");
        assert!(matches!(told, Err(ArchiveError::Truncated)), "cut at {end}: {told:?}");
    }
}

#[test]
fn a_file_that_was_changed_anywhere_is_told_as_such() {
    let file = written(&rows());
    let head = file.windows(4).position(|part| part == b"--- ").unwrap();
    let chunk = (64 << 10) + 16;
    let payload = file.len() - file.len() / chunk * chunk;
    for at in [head + 6, payload - 3, payload, payload + 5_000, payload + chunk + 1, file.len() - 20, file.len() - 1] {
        let mut changed = file.clone();
        changed[at] ^= 1;
        let told = read(&changed, "correct horse");
        assert!(matches!(told, Err(ArchiveError::Tampered)), "changed at {at}: {told:?}");
    }
    let mut longer = file.clone();
    longer.push(0);
    assert!(read(&longer, "correct horse").is_err());
    // Whole chunks that changed places.
    let mut swapped = file.clone();
    let (first, second) = swapped[payload..].split_at_mut(chunk);
    first.swap_with_slice(&mut second[..chunk]);
    assert!(matches!(read(&swapped, "correct horse"), Err(ArchiveError::Tampered)));
}

#[test]
fn something_else_is_no_archive() {
    for file in ["", "hello", "{\"a\":1}\n\n\n\n", "age-encryption.org/v1\n-> X25519 abc\nabc\n--- abc\n"] {
        assert!(matches!(read(file.as_bytes(), "x"), Err(ArchiveError::NotAnArchive)), "{file:?}");
    }
    // Of our envelope, with other content.
    let mut sealed = Sealed::new(Vec::new(), &passphrase("x")).unwrap();
    sealed.write_all(b"some text that somebody encrypted").unwrap();
    assert!(matches!(read(&sealed.finish().unwrap(), "x"), Err(ArchiveError::NotAnArchive)));
}

#[test]
fn a_newer_format_is_told_before_anything_else_is_read() {
    let head = Head { format: 2, ..Head::new(Kind::Session) };
    let file = Writer::new(Vec::new(), &passphrase("x"), &head).unwrap().finish().unwrap();
    assert!(matches!(read(&file, "x"), Err(ArchiveError::NewerFormat { found: 2 })));
}

#[test]
fn a_row_beyond_the_limit_is_refused() {
    let mut writer = Writer::new(io::sink(), &passphrase("x"), &Head::new(Kind::Session)).unwrap();
    let error = writer.row("a", b"k", &vec![0; MAX_FIELD + 1]).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
}

/// Made by age 1.1.1 (`age --passphrase`) from an archive's content without its filling.
const BY_AGE: &str = "\
    YWdlLWVuY3J5cHRpb24ub3JnL3YxCi0+IHNjcnlwdCBTYVFsZ01ibGhDdjZUWnVjaS9sdGp3IDE4CnJOekt2ckd3UUxPOGtEYTFDZFpOcXZI\
    M3hsM0NGZlBPN0Y5VnptUlowQWMKLS0tIFBxVEx6d1RDTm1xdWkxYjRvL202RjUrQmRvbGhvOE1ISXpLak5ZTnRicEEKlglN7nV3GbXSeb34\
    d0QD02QhNrMTu01yIDZc+EGp7Sz8O5H7mST3H29MBmmBOzXmmT9oPtUK9+5vaf9wNqGqUTE+pTfNsImEvzDPV7qlJ05TbLtZ0sAn7yIXw7/n\
    3ZSamgZi82r+SRzP9voV2HrcU/Ou+zXFzwkkXlKhDKqzs1VSgSDx1ZPE+sCbhjbaqYi2bS9TrYisPCNq6yaAZw9B6zuNnP4hGTuGIHDlMonx\
    OrefCAd7WXNQ/w==";

#[test]
fn a_file_made_by_age_opens() {
    use base64::Engine as _;
    let file = base64::engine::general_purpose::STANDARD.decode(BY_AGE).unwrap();
    let read = read(&file, "correct horse").unwrap();
    let row = Row { namespace: "registry".to_owned(), key: "key".into(), value: "value".into() };
    assert_eq!(read, [row]);
    let head = Reader::open(file.as_slice(), &passphrase("correct horse")).unwrap().head().clone();
    assert_eq!(head.kind, Kind::Session);
}
