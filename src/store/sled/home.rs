//! One tree for each session: its namespaces share it, each under a first byte of its own, and a row of the store's own tree
//! says which of them there are.
//!
//! sled writes the names of all trees again with each that is made or dropped (sled 0.34, `cas_root_in_meta`), so that three
//! trees a session cost a thousand sessions nine times as much. Stores of older releases have a tree for each namespace, under
//! its name; such trees are used as they are until they are dropped.

use std::sync::{Mutex, MutexGuard, PoisonError};

use sled::{Error, IVec, Tree};
use uuid::Uuid;

use crate::store::Namespace;

/// Names of session trees begin so; older ones with a letter.
const OF_UUID: u8 = 1;
const OF_TEXT: u8 = 2;
/// The rows that say which namespaces a session has: this, and the name of its tree.
const ROW: &[u8] = b"k";

/// A namespace of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// First, as sled merges no leftmost page with another: its rows come and go.
    Outbox,
    Credentials,
    Sent,
}

impl Kind {
    const ALL: [Self; 3] = [Self::Outbox, Self::Credentials, Self::Sent];

    fn name(self) -> &'static str {
        match self {
            Self::Outbox => "outbox",
            Self::Credentials => "credentials",
            Self::Sent => "sent",
        }
    }

    /// What its keys begin with.
    pub(super) fn first_byte(self) -> u8 {
        match self {
            Self::Outbox => 1,
            Self::Credentials => 2,
            Self::Sent => 3,
        }
    }

    fn bit(self) -> u8 {
        1 << (self.first_byte() - 1)
    }
}

/// The tree in which a namespace lives, and its part of it; `None`: it is no session's.
pub(super) fn place_of(ns: &Namespace) -> Option<(IVec, Kind)> {
    let (kind, uid) = ns.as_str().split_once(':')?;
    let kind = Kind::ALL.into_iter().find(|known| known.name() == kind)?;
    let name = match Uuid::try_parse(uid) {
        Ok(number) if number.to_string() == uid => [&[OF_UUID], number.as_bytes().as_slice()].concat(),
        _ => [&[OF_TEXT], uid.as_bytes()].concat(),
    };
    Some((name.into(), kind))
}

/// The uid of the session whose tree has this name; `None`: it is no session's.
fn uid_of(tree: &[u8]) -> Option<String> {
    match tree.split_first()? {
        (&OF_UUID, rest) => Some(Uuid::from_slice(rest).ok()?.to_string()),
        (&OF_TEXT, rest) => Some(String::from_utf8(rest.to_vec()).ok()?),
        _ => None,
    }
}

/// Which namespaces a session has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Kinds {
    live: u8,
    /// Of these: the ones whose rows were being removed.
    leaving: u8,
    /// The tree is dropped: make another.
    pub(super) gone: bool,
}

impl Kinds {
    const NONE: Self = Self { live: 0, leaving: 0, gone: false };
    /// Whatever may be there.
    const ALL: Self = Self { live: 7, leaving: 0, gone: false };

    fn has(self, kind: Kind) -> bool {
        self.live & kind.bit() != 0
    }

    fn is_leaving(self, kind: Kind) -> bool {
        self.leaving & kind.bit() != 0
    }

    /// Whether it has others than these.
    pub(super) fn has_others(self, kinds: impl Iterator<Item = Kind>) -> bool {
        self.live & !kinds.fold(0, |bits, kind| bits | kind.bit()) != 0
    }

    fn with(self, kind: Kind) -> Self {
        Self { live: self.live | kind.bit(), leaving: self.leaving & !kind.bit(), ..self }
    }

    fn leaving(self, kind: Kind) -> Self {
        Self { leaving: self.leaving | kind.bit(), ..self }
    }

    fn without(self, kind: Kind) -> Self {
        Self { live: self.live & !kind.bit(), leaving: self.leaving & !kind.bit(), ..self }
    }

    fn encode(self) -> [u8; 2] {
        [self.live, self.leaving]
    }

    fn decode(row: &[u8]) -> Option<Self> {
        let &[live, leaving] = row else { return None };
        Some(Self { live, leaving, gone: false })
    }
}

/// A session's tree.
#[derive(Debug)]
pub(super) struct Home {
    pub(super) name: IVec,
    pub(super) tree: Tree,
    /// The store's own tree.
    meta: Tree,
    /// Taken after the gates of its namespaces.
    kinds: Mutex<Kinds>,
}

impl Home {
    /// Of a tree that was just made: nothing is in it.
    pub(super) fn new(name: IVec, tree: Tree, meta: Tree) -> Self {
        Self { name, tree, meta, kinds: Mutex::new(Kinds::NONE) }
    }

    /// Of a tree that is there; `None`: it is no session's.
    ///
    /// One without a readable row may have anything: it was being made or dropped when the process ended, or the row is damaged.
    pub(super) fn found(name: IVec, tree: &Tree, meta: &Tree) -> Option<(String, Self)> {
        let uid = uid_of(&name)?;
        let row = meta.get(row_key(&name)).ok().flatten();
        let kinds = Mutex::new(row.and_then(|row| Kinds::decode(&row)).unwrap_or(Kinds::ALL));
        Some((uid, Self { name, tree: tree.clone(), meta: meta.clone(), kinds }))
    }

    pub(super) fn kinds(&self) -> MutexGuard<'_, Kinds> {
        self.kinds.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The namespaces that the session with this uid has, and whether they are leaving.
    pub(super) fn namespaces(&self, uid: &str) -> Vec<(Namespace, Kind, bool)> {
        let kinds = *self.kinds();
        let of = |kind: Kind| (Namespace::from_name(&format!("{}:{uid}", kind.name())), kind, kinds.is_leaving(kind));
        Kind::ALL.into_iter().filter(|&kind| kinds.has(kind)).map(of).collect()
    }

    /// Notes that there is a namespace, before its first row.
    pub(super) fn add(&self, kinds: &mut Kinds, kind: Kind) -> Result<(), Error> {
        self.note(kinds, kinds.with(kind))
    }

    /// Removes all rows of a namespace, and then its mention: a process that ends in between finds it leaving, which counts as
    /// empty.
    pub(super) fn clear(&self, kinds: &mut Kinds, kind: Kind) -> Result<(), Error> {
        self.note(kinds, kinds.leaving(kind))?;
        self.remove_rows(kind)?;
        self.note(kinds, kinds.without(kind))
    }

    /// Ends a removal that a process left half done; the namespace stays, empty.
    pub(super) fn finish_clearing(&self, kind: Kind) -> Result<(), Error> {
        let mut kinds = self.kinds();
        if kinds.is_leaving(kind) {
            self.remove_rows(kind)?;
            let after = kinds.with(kind);
            self.note(&mut kinds, after)?;
        }
        Ok(())
    }

    /// Takes the mention of all its namespaces away; what precedes dropping the tree.
    pub(super) fn forget(&self) -> Result<(), Error> {
        self.meta.remove(row_key(&self.name)).map(drop)
    }

    fn remove_rows(&self, kind: Kind) -> Result<(), Error> {
        let rows = self.tree.scan_prefix([kind.first_byte()]).keys();
        rows.into_iter().try_for_each(|key| self.tree.remove(key?).map(drop))
    }

    fn note(&self, kinds: &mut Kinds, after: Kinds) -> Result<(), Error> {
        self.meta.insert(row_key(&self.name), &after.encode())?;
        *kinds = after;
        Ok(())
    }
}

fn row_key(name: &[u8]) -> Vec<u8> {
    [ROW, name].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meta() -> Tree {
        Tree::clone(&sled::Config::new().temporary(true).open().unwrap())
    }

    #[test]
    fn each_session_has_one_tree_and_is_known_by_it() {
        let uid = Uuid::new_v4().to_string();
        for uid in [uid.as_str(), "a", "", "not-a-uuid:x", &uid.to_uppercase(), &uid.replace('-', "")] {
            let names: Vec<_> = [Namespace::outbox(uid), Namespace::credentials(uid), Namespace::sent(uid)]
                .iter()
                .map(|ns| place_of(ns).unwrap())
                .collect();
            assert_eq!(names.iter().map(|(_, kind)| *kind).collect::<Vec<_>>(), Kind::ALL, "{uid}");
            assert!(names.iter().all(|(name, _)| *name == names[0].0), "{uid}");
            assert_eq!(uid_of(&names[0].0).as_deref(), Some(uid));
        }
        assert_eq!(place_of(&Namespace::credentials(&uid)).unwrap().0.len(), 17);
        for other in [Namespace::registry(), Namespace::probe(), Namespace::from_name("other:a")] {
            assert_eq!(place_of(&other), None);
            assert_eq!(uid_of(other.as_str().as_bytes()), None);
        }
    }

    #[test]
    fn what_a_session_has_is_found_again() {
        let meta = meta();
        let (name, _) = place_of(&Namespace::sent("a")).unwrap();
        let found = || {
            let (uid, home) = Home::found(name.clone(), &meta, &meta).unwrap();
            home.namespaces(&uid)
                .into_iter()
                .map(|(ns, _, leaving)| (ns.as_str().to_owned(), leaving))
                .collect::<Vec<_>>()
        };
        let named =
            |names: &[(&str, bool)]| names.iter().map(|(ns, leaving)| ((*ns).to_owned(), *leaving)).collect::<Vec<_>>();
        let all = named(&[("outbox:a", false), ("credentials:a", false), ("sent:a", false)]);
        assert_eq!(found(), all, "a tree without a row may have anything");
        meta.insert(row_key(&name), b"odd").unwrap();
        assert_eq!(found(), all, "and so may one whose row makes no sense");
        let home = Home::new(name.clone(), meta.clone(), meta.clone());
        let mut kinds = home.kinds();
        for kind in [Kind::Credentials, Kind::Sent] {
            home.add(&mut kinds, kind).unwrap();
        }
        assert_eq!(found(), named(&[("credentials:a", false), ("sent:a", false)]));
        assert!(kinds.has_others([Kind::Sent, Kind::Outbox].into_iter()));
        assert!(!kinds.has_others([Kind::Sent, Kind::Credentials].into_iter()));
        let after = kinds.leaving(Kind::Sent);
        home.note(&mut kinds, after).unwrap();
        assert_eq!(found(), named(&[("credentials:a", false), ("sent:a", true)]));
        home.clear(&mut kinds, Kind::Sent).unwrap();
        assert_eq!(found(), named(&[("credentials:a", false)]));
    }
}
