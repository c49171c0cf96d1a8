//! Containers of a few hundred bytes, made here.

use super::*;

fn facts(bytes: Vec<u8>) -> Facts {
    let folder = tempfile::tempdir().unwrap();
    probe(&Spool::from_bytes(bytes, folder.path()).unwrap())
}

fn running(seconds: u32) -> Facts {
    Facts { seconds: Some(seconds), size: None }
}

/// A box of the MP4 format.
fn atom(name: &[u8; 4], parts: &[&[u8]]) -> Vec<u8> {
    let body = parts.concat();
    let len = u32::try_from(body.len() + 8).unwrap();
    [&len.to_be_bytes()[..], name, &body].concat()
}

fn words(values: &[u32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_be_bytes()).collect()
}

const MATRIX: [u32; 9] = [0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x4000_0000];

fn mp4(milliseconds: u32, width: u16, height: u16) -> Vec<u8> {
    let mvhd = [
        words(&[0, 0, 0, 1000, milliseconds, 0x10000, 0x0100_0000, 0, 0]),
        words(&MATRIX),
        words(&[0; 6]),
        words(&[2]),
    ];
    let tkhd = [
        words(&[7, 0, 0, 1, 0, milliseconds, 0, 0, 0, 0]),
        words(&MATRIX),
        words(&[u32::from(width) << 16, u32::from(height) << 16]),
    ];
    let avc1 = [
        words(&[0, 1, 0, 0, 0, 0, u32::from(width) << 16 | u32::from(height), 0x48_0000, 0x48_0000, 0]),
        vec![0, 1],
        vec![0; 32],
        vec![0, 0x18, 0xff, 0xff],
        atom(b"avcC", &[&[1, 0x42, 0, 0x1e, 0xff, 0xe1, 0, 4, 0x67, 0x42, 0, 0x1e, 1, 0, 4, 0x68, 0xce, 0x3c, 0x80]]),
    ];
    let stbl = [
        atom(b"stsd", &[&words(&[0, 1]), &atom(b"avc1", &[&avc1.concat()])]),
        atom(b"stts", &[&words(&[0, 1, 1, milliseconds])]),
        atom(b"stsc", &[&words(&[0, 1, 1, 1, 1])]),
        atom(b"stsz", &[&words(&[0, 0, 1, 4])]),
        atom(b"stco", &[&words(&[0, 1, 32])]),
    ];
    let minf = [
        atom(b"vmhd", &[&words(&[1, 0, 0])]),
        atom(b"dinf", &[&atom(b"dref", &[&words(&[0, 1]), &atom(b"url ", &[&words(&[1])])])]),
        atom(b"stbl", &[&stbl.concat()]),
    ];
    let mdia = [
        atom(b"mdhd", &[&words(&[0, 0, 0, 1000, milliseconds, 0x55c4_0000])]),
        atom(b"hdlr", &[&words(&[0, 0]), b"vide", &words(&[0, 0, 0]), b"\0"]),
        atom(b"minf", &[&minf.concat()]),
    ];
    let trak = atom(b"trak", &[&atom(b"tkhd", &[&tkhd.concat()]), &atom(b"mdia", &[&mdia.concat()])]);
    // The index behind the data, as cameras write it.
    [
        atom(b"ftyp", &[b"isom", &words(&[512]), b"isom", b"mp41"]),
        atom(b"mdat", &[&[0; 4]]),
        atom(b"moov", &[&atom(b"mvhd", &[&mvhd.concat()]), &trak]),
    ]
    .concat()
}

/// 8-bit mono at 8000 Hz.
fn wav(samples: u32) -> Vec<u8> {
    let mut bytes = b"RIFF".to_vec();
    bytes.extend((36 + samples).to_le_bytes());
    bytes.extend(b"WAVEfmt \x10\0\0\0\x01\0\x01\0");
    bytes.extend(8000u32.to_le_bytes());
    bytes.extend(8000u32.to_le_bytes());
    bytes.extend(b"\x01\0\x08\0data");
    bytes.extend(samples.to_le_bytes());
    bytes.resize(bytes.len() + usize::try_from(samples).unwrap(), 0x80);
    bytes
}

/// One Ogg page with one packet.
fn page(flags: u8, granule: u64, sequence: u32, packet: &[u8]) -> Vec<u8> {
    let mut page = b"OggS\0".to_vec();
    page.push(flags);
    page.extend(granule.to_le_bytes());
    page.extend(7u32.to_le_bytes());
    page.extend(sequence.to_le_bytes());
    page.extend([0; 4]);
    page.extend([1, u8::try_from(packet.len()).unwrap()]);
    page.extend(packet);
    let crc = page.iter().fold(0u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte) << 24, |crc, _| crc << 1 ^ if crc >> 31 == 1 { 0x04c1_1db7 } else { 0 })
    });
    page[22..26].copy_from_slice(&crc.to_le_bytes());
    page
}

/// A voice note as phones send it: Opus in Ogg.
fn voice_note(seconds: u64) -> Vec<u8> {
    let head = [b"OpusHead\x01\x01".as_slice(), &312u16.to_le_bytes(), &16_000u32.to_le_bytes(), &[0; 3]].concat();
    [
        page(2, 0, 0, &head),
        page(0, 0, 1, b"OpusTags\x04\0\0\0test\0\0\0\0"),
        page(0, 960, 2, &[0x78, 0, 0]),
        page(4, seconds * 48_000 + 312, 3, &[0x78, 0, 0]),
    ]
    .concat()
}

/// Silent frames: MPEG 1 layer III, 128 kbit/s, 44.1 kHz, mono.
fn mp3(frames: usize) -> Vec<u8> {
    let mut frame = vec![0xff, 0xfb, 0x90, 0xc0];
    frame.resize(417, 0);
    frame.repeat(frames)
}

/// An element of EBML with a four-byte length.
fn element(id: &[u8], body: &[u8]) -> Vec<u8> {
    let len = u32::try_from(body.len()).unwrap() | 0x1000_0000;
    [id, &len.to_be_bytes()[..], body].concat()
}

fn webm(milliseconds: f32) -> Vec<u8> {
    let head = [
        element(&[0x42, 0x86], &[1]),
        element(&[0x42, 0xf7], &[1]),
        element(&[0x42, 0xf2], &[4]),
        element(&[0x42, 0xf3], &[8]),
        element(&[0x42, 0x82], b"webm"),
        element(&[0x42, 0x87], &[2]),
        element(&[0x42, 0x85], &[2]),
    ];
    let info = [
        element(&[0x2a, 0xd7, 0xb1], &1_000_000u32.to_be_bytes()),
        element(&[0x44, 0x89], &milliseconds.to_be_bytes()),
        element(&[0x4d, 0x80], b"test"),
        element(&[0x57, 0x41], b"test"),
    ];
    let track = [
        element(&[0xd7], &[1]),
        element(&[0x73, 0xc5], &[1]),
        element(&[0x83], &[1]),
        element(&[0x86], b"V_VP8"),
        element(&[0xe0], &[element(&[0xb0], &[1, 0x40]), element(&[0xba], &[0xf0])].concat()),
    ];
    let cluster = [element(&[0xe7], &[0]), element(&[0xa3], &[0x81, 0, 0, 0x80, 0])];
    let segment = [
        element(&[0x15, 0x49, 0xa9, 0x66], &info.concat()),
        element(&[0x16, 0x54, 0xae, 0x6b], &element(&[0xae], &track.concat())),
        element(&[0x1f, 0x43, 0xb6, 0x75], &cluster.concat()),
    ];
    [element(&[0x1a, 0x45, 0xdf, 0xa3], &head.concat()), element(&[0x18, 0x53, 0x80, 0x67], &segment.concat())].concat()
}

#[test]
fn containers_tell_how_long_they_run() {
    assert_eq!(facts(wav(20_000)), running(3), "2.5 s are rounded up");
    assert_eq!(facts(wav(800)), running(1), "a short one has one second");
    assert_eq!(facts(voice_note(7)), running(7));
    assert_eq!(facts(mp3(77)), running(2));
    assert_eq!(facts(mp4(12_345, 320, 240)), Facts { seconds: Some(12), size: Some((320, 240)) });
    assert_eq!(facts(webm(4200.0)), Facts { seconds: Some(4), size: Some((320, 240)) });
}

#[test]
fn what_tells_nothing_is_no_error() {
    let mut cut = mp4(12_345, 320, 240);
    cut.truncate(cut.len() - 60);
    let noise: Vec<u8> = (0..300_000u32).map(|at| at.wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect();
    for bytes in [cut, noise, b"<html></html>".to_vec(), vec![0; 4000], Vec::new()] {
        assert_eq!(facts(bytes), Facts::default());
    }
}

#[test]
fn every_cut_and_flip_of_a_container_is_survived() {
    for whole in [mp4(12_345, 320, 240), webm(4200.0), voice_note(7), wav(20)] {
        for at in 0..whole.len() {
            facts(whole[..at].to_vec());
            let mut flipped = whole.clone();
            flipped[at] ^= 0xff;
            facts(flipped);
        }
    }
}

#[test]
fn reading_ends_after_so_much() {
    let mut source = Bounded {
        inner: Box::new(io::Cursor::new(vec![1; 100])),
        len: 100,
        left: 10,
        until: Instant::now() + Duration::from_secs(60),
    };
    let mut read = Vec::new();
    source.read_to_end(&mut read).unwrap_err();
    assert_eq!(read.len(), 10);
    source.until = Instant::now().checked_sub(Duration::from_secs(1)).unwrap();
    source.left = 10;
    source.read(&mut [0; 1]).unwrap_err();
}
