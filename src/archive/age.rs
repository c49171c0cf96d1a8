//! The envelope: the age format, version 1 (<https://age-encryption.org/v1>), with its recipient type for a passphrase.
//!
//! Written out here over `RustCrypto`'s primitives: the `age` crate brings more than sixty others, most of them for kinds
//! of keys and for translations that an archive has no use for. The tests open a file made by another program.

use std::fmt;
use std::io::{self, BufRead as _, BufReader, Read, Write};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use chacha20poly1305::aead::{Aead as _, AeadInPlace as _};
use chacha20poly1305::{ChaCha20Poly1305, KeyInit as _};
use hkdf::Hkdf;
use hmac::{Hmac, Mac as _};
use secrecy::{ExposeSecret as _, SecretBox, SecretString};
use sha2::Sha256;

use super::ArchiveError;

/// Whether a file that begins so is one of age's, or the beginning of one.
pub fn is_sealed(begins: &[u8]) -> bool {
    let len = begins.len().min(VERSION.len());
    len > 0 && begins[..len] == VERSION.as_bytes()[..len]
}

const VERSION: &str = "age-encryption.org/v1\n";
const SCRYPT: &str = "-> scrypt ";
const SCRYPT_LABEL: &[u8] = b"age-encryption.org/v1/scrypt";

/// scrypt's cost as a power of two, with r = 8: 64 MiB and a fraction of a second for each guess. OWASP's minimum is twice
/// that, but the gateway that writes a backup may have little memory beside its sessions.
const LOG_N: u8 = 16;
/// A foreign file may ask for no more than 1 GiB.
const MAX_LOG_N: u8 = 20;

const CHUNK: usize = 64 << 10;
const TAG: usize = 16;
/// Lines of a head of our kind are shorter.
const MAX_LINE: usize = 256;

type FileKey = SecretBox<[u8; 16]>;

/// Encrypts what is written into it.
pub(super) struct Sealed<W> {
    inner: W,
    cipher: Chunks,
    chunk: Vec<u8>,
}

impl<W: Write> Sealed<W> {
    pub(super) fn new(mut inner: W, passphrase: &SecretString) -> io::Result<Self> {
        let (mut key, mut salt, mut nonce) = ([0; 16], [0; 16], [0; 16]);
        for random in [&mut key, &mut salt, &mut nonce] {
            getrandom::fill(random).map_err(|error| io::Error::other(error.to_string()))?;
        }
        let key = FileKey::new(Box::new(key));
        let wrapped = wrapping(passphrase, &salt, LOG_N)
            .encrypt(&[0; 12].into(), key.expose_secret().as_slice())
            .map_err(|_| io::Error::other("the key of the archive can't be wrapped"))?;
        let (salt, wrapped) = (STANDARD_NO_PAD.encode(salt), STANDARD_NO_PAD.encode(wrapped));
        let head = format!("{VERSION}{SCRYPT}{salt} {LOG_N}\n{wrapped}\n---");
        let mac = STANDARD_NO_PAD.encode(mac(&key, head.as_bytes()).finalize().into_bytes());
        inner.write_all(format!("{head} {mac}\n").as_bytes())?;
        inner.write_all(&nonce)?;
        Ok(Self { inner, cipher: Chunks::new(&key, &nonce), chunk: Vec::with_capacity(CHUNK + TAG) })
    }

    /// Fills the last chunk with zeros and writes it.
    pub(super) fn finish(mut self) -> io::Result<W> {
        self.chunk.resize(CHUNK, 0);
        self.seal(true)?;
        self.inner.flush()?;
        Ok(self.inner)
    }

    fn seal(&mut self, last: bool) -> io::Result<()> {
        let nonce = self.cipher.nonce(last);
        let sealed = self.cipher.cipher.encrypt_in_place(&nonce.into(), b"", &mut self.chunk);
        sealed.map_err(|_| io::Error::other("a part of the archive can't be encrypted"))?;
        self.inner.write_all(&self.chunk)?;
        self.chunk.clear();
        Ok(())
    }
}

impl<W: Write> Write for Sealed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // A full chunk waits for what comes behind it: it may be the last.
        if self.chunk.len() == CHUNK && !bytes.is_empty() {
            self.seal(false)?;
        }
        let taken = bytes.len().min(CHUNK - self.chunk.len());
        self.chunk.extend_from_slice(&bytes[..taken]);
        Ok(taken)
    }

    /// Only whole chunks leave.
    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// Decrypts what is read out of it.
pub(super) struct Opened<R> {
    inner: BufReader<R>,
    cipher: Chunks,
    chunk: Vec<u8>,
    /// How much of the chunk was taken.
    at: usize,
    last: bool,
}

impl<R: Read> Opened<R> {
    pub(super) fn new(inner: R, passphrase: &SecretString) -> Result<Self, ArchiveError> {
        let mut inner = BufReader::with_capacity(CHUNK, inner);
        let mut head = String::new();
        if line(&mut inner, &mut head)? != VERSION {
            return Err(ArchiveError::NotAnArchive);
        }
        let stanza = line(&mut inner, &mut head)?.trim_end().strip_prefix(SCRYPT).map(str::to_owned);
        let (salt, log_n) =
            stanza.as_deref().and_then(|text| text.split_once(' ')).ok_or(ArchiveError::NotAnArchive)?;
        let salt: [u8; 16] = decode(salt)?;
        let log_n = log_n.parse().ok().filter(|n| (1..=MAX_LOG_N).contains(n)).ok_or(ArchiveError::NotAnArchive)?;
        let wrapped: [u8; 32] = decode(line(&mut inner, &mut head)?.trim_end())?;
        let signed = head.len() + "---".len();
        let told = line(&mut inner, &mut head)?.trim_end().strip_prefix("--- ").map(str::to_owned);
        let told: [u8; 32] = decode(&told.ok_or(ArchiveError::Tampered)?)?;
        head.truncate(signed);

        let key = wrapping(passphrase, &salt, log_n)
            .decrypt(&[0; 12].into(), wrapped.as_slice())
            .map_err(|_| ArchiveError::WrongPassphrase)?;
        let key = FileKey::new(Box::new(key.try_into().map_err(|_| ArchiveError::Tampered)?));
        mac(&key, head.as_bytes()).verify_slice(&told).map_err(|_| ArchiveError::Tampered)?;
        let mut nonce = [0; 16];
        inner.read_exact(&mut nonce).map_err(reading)?;
        Ok(Self { inner, cipher: Chunks::new(&key, &nonce), chunk: Vec::new(), at: 0, last: false })
    }

    /// Fills the buffer with what comes next.
    pub(super) fn exactly(&mut self, mut buffer: &mut [u8]) -> Result<(), ArchiveError> {
        while !buffer.is_empty() {
            if self.at == self.chunk.len() {
                self.next_chunk()?;
            }
            let taken = buffer.len().min(self.chunk.len() - self.at);
            let (now, later) = buffer.split_at_mut(taken);
            now.copy_from_slice(&self.chunk[self.at..self.at + taken]);
            (self.at, buffer) = (self.at + taken, later);
        }
        Ok(())
    }

    /// Makes sure that only the filling and nothing else follows.
    pub(super) fn end(&mut self) -> Result<(), ArchiveError> {
        // The writer fills the chunk that it is at, so the end mark stands in the last one.
        if !self.last {
            return Err(ArchiveError::Tampered);
        }
        let filled = self.chunk[self.at..].iter().all(|&byte| byte == 0);
        let more = !self.inner.fill_buf().map_err(ArchiveError::Io)?.is_empty();
        if filled && !more { Ok(()) } else { Err(ArchiveError::Tampered) }
    }

    fn next_chunk(&mut self) -> Result<(), ArchiveError> {
        if self.last {
            return Err(ArchiveError::Tampered);
        }
        let mut chunk = Vec::with_capacity(CHUNK + TAG);
        self.inner.by_ref().take((CHUNK + TAG) as u64).read_to_end(&mut chunk).map_err(ArchiveError::Io)?;
        let whole = chunk.len() == CHUNK + TAG;
        self.last = !whole || self.inner.fill_buf().map_err(ArchiveError::Io)?.is_empty();
        let nonce = self.cipher.nonce(self.last);
        let sealed = chunk.clone();
        let cipher = &self.cipher.cipher;
        if cipher.decrypt_in_place(&nonce.into(), b"", &mut chunk).is_err() {
            // Ours has whole chunks only; and one that is whole, not the last, and has nothing behind it was cut there.
            let mut inner = nonce;
            inner[11] = 0;
            let cut = !whole || (self.last && cipher.decrypt(&inner.into(), sealed.as_slice()).is_ok());
            return Err(if cut { ArchiveError::Truncated } else { ArchiveError::Tampered });
        }
        (self.chunk, self.at) = (chunk, 0);
        Ok(())
    }
}

/// The payload's key and the number of the next chunk.
struct Chunks {
    cipher: ChaCha20Poly1305,
    next: u64,
}

impl Chunks {
    fn new(key: &FileKey, nonce: &[u8; 16]) -> Self {
        let payload: [u8; 32] = derived(key, Some(nonce), b"payload");
        Self { cipher: ChaCha20Poly1305::new(&payload.into()), next: 0 }
    }

    fn nonce(&mut self, last: bool) -> [u8; 12] {
        let mut nonce = [0; 12];
        nonce[3..11].copy_from_slice(&self.next.to_be_bytes());
        nonce[11] = u8::from(last);
        self.next += 1;
        nonce
    }
}

fn derived(key: &FileKey, salt: Option<&[u8]>, info: &[u8]) -> [u8; 32] {
    let mut derived = [0; 32];
    let kdf = Hkdf::<Sha256>::new(salt, key.expose_secret());
    kdf.expand(info, &mut derived).expect("HKDF gives 32 bytes");
    derived
}

fn mac(key: &FileKey, head: &[u8]) -> Hmac<Sha256> {
    let key = derived(key, None, b"header");
    let mut mac = <Hmac<Sha256> as hmac::Mac>::new_from_slice(&key).expect("HMAC takes a key of any length");
    mac.update(head);
    mac
}

fn wrapping(passphrase: &SecretString, salt: &[u8; 16], log_n: u8) -> ChaCha20Poly1305 {
    let params = scrypt::Params::new(log_n, 8, 1, 32).expect("the cost is within scrypt's bounds");
    let mut key = [0; 32];
    scrypt::scrypt(passphrase.expose_secret().as_bytes(), &[SCRYPT_LABEL, salt].concat(), &params, &mut key)
        .expect("scrypt gives 32 bytes");
    ChaCha20Poly1305::new(&key.into())
}

/// The next line of the head, which is added to `head`.
fn line<'a>(inner: &mut impl io::BufRead, head: &'a mut String) -> Result<&'a str, ArchiveError> {
    let from = head.len();
    let mut read = Vec::new();
    inner.take(MAX_LINE as u64).read_until(b'\n', &mut read).map_err(ArchiveError::Io)?;
    if read.len() < MAX_LINE && read.last() != Some(&b'\n') {
        // Nothing but a beginning: of an archive, or of something else.
        let cut = from > 0 || (!read.is_empty() && VERSION.as_bytes().starts_with(&read));
        return Err(if cut { ArchiveError::Truncated } else { ArchiveError::NotAnArchive });
    }
    head.push_str(std::str::from_utf8(&read).map_err(|_| ArchiveError::NotAnArchive)?);
    Ok(&head[from..])
}

fn decode<const N: usize>(text: &str) -> Result<[u8; N], ArchiveError> {
    let bytes = STANDARD_NO_PAD.decode(text).map_err(|_| ArchiveError::Tampered)?;
    bytes.try_into().map_err(|_| ArchiveError::Tampered)
}

fn reading(error: io::Error) -> ArchiveError {
    if error.kind() == io::ErrorKind::UnexpectedEof { ArchiveError::Truncated } else { ArchiveError::Io(error) }
}

impl<W> fmt::Debug for Sealed<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sealed").field("chunks", &self.cipher.next).finish_non_exhaustive()
    }
}

impl<R> fmt::Debug for Opened<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Opened").field("chunks", &self.cipher.next).finish_non_exhaustive()
    }
}
