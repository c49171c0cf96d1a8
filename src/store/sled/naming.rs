//! How the namespaces of an open store are made and dropped.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard, PoisonError};

use sled::{Error, IVec};

use super::flusher::let_go;
use super::home::{Home, Kind, place_of};
use super::opened::{Opened, raise_schema};
use super::table::{Live, Table};
use crate::store::{KvError, Namespace};

/// A namespace of a session, about to be dropped.
struct AtHome<'a> {
    home: Arc<Home>,
    kind: Kind,
    ns: &'a Namespace,
    table: Arc<Table>,
}

impl Opened {
    /// Drops namespaces; durable after the next flush. Those of one session together are dropped with their tree.
    pub(super) fn drop_tables(&self, dropped: &[Namespace]) -> Result<(), KvError> {
        let mut at_home = Vec::new();
        for ns in dropped {
            let Some(table) = self.table(ns) else { continue };
            match table.home().map(|(home, kind)| (Arc::clone(home), kind)) {
                Some((home, kind)) => at_home.push(AtHome { home, kind, ns, table }),
                None => self.drop_tree_of(ns, &table)?,
            }
        }
        at_home.sort_by(|a, b| (&a.home.name, a.kind).cmp(&(&b.home.name, b.kind)));
        // One that is named twice would wait for its own gate.
        at_home.dedup_by(|a, b| a.home.name == b.home.name && a.kind == b.kind);
        for tables in at_home.chunk_by(|a, b| a.home.name == b.home.name) {
            self.drop_at_home(tables)?;
        }
        self.due.store(self.is_outgrown(), Ordering::Release);
        Ok(())
    }

    /// One with a tree of its own.
    fn drop_tree_of(&self, ns: &Namespace, table: &Table) -> Result<(), KvError> {
        // Writers wait at the gate, then look the namespace up again and make it anew; readers find an empty tree.
        let mut live = table.alone();
        if *live == Live::Dropped {
            return Ok(());
        }
        self.db.drop_tree(ns.as_str()).map_err(KvError::engine)?;
        let_go();
        *live = Live::Dropped;
        self.let_go_of(ns);
        Ok(())
    }

    /// Namespaces of one session, in the order of their kinds.
    fn drop_at_home(&self, tables: &[AtHome<'_>]) -> Result<(), KvError> {
        let gates = tables.iter().map(|at_home| (at_home, at_home.table.alone()));
        let mut gates: Vec<_> = gates.filter(|(_, live)| **live == Live::Yes).collect();
        let Some(home) = gates.first().map(|(at_home, _)| &at_home.home) else { return Ok(()) };
        for (at_home, _) in &gates {
            at_home.table.leave();
        }
        let mut kinds = home.kinds();
        if kinds.has_others(gates.iter().map(|(at_home, _)| at_home.kind)) {
            for (at_home, _) in &gates {
                home.clear(&mut kinds, at_home.kind).map_err(KvError::engine)?;
            }
        } else {
            home.forget().map_err(KvError::engine)?;
            self.db.drop_tree(&home.name).map_err(KvError::engine)?;
            kinds.gone = true;
            self.homes().remove(&home.name);
        }
        let_go();
        for (at_home, live) in &mut gates {
            **live = Live::Dropped;
            self.let_go_of(at_home.ns);
        }
        Ok(())
    }

    fn let_go_of(&self, ns: &Namespace) {
        self.tables.write().unwrap_or_else(PoisonError::into_inner).remove(ns);
        self.dropped.fetch_add(1, Ordering::AcqRel);
        self.count();
    }

    fn homes(&self) -> MutexGuard<'_, HashMap<IVec, Arc<Home>>> {
        self.homes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells the marker how many namespaces there are.
    fn count(&self) {
        if let Some(marks) = &self.marks {
            marks.namespaces.store(self.tables().len(), Ordering::Release);
        }
    }

    pub(super) fn make_table(&self, ns: &Namespace) -> Result<Arc<Table>, KvError> {
        let made = match place_of(ns) {
            Some((name, kind)) => self.make_at_home(ns, &name, kind),
            None => self.make_tree_of(ns),
        };
        self.count();
        self.due.store(self.is_outgrown(), Ordering::Release);
        made.map_err(KvError::engine)
    }

    fn make_tree_of(&self, ns: &Namespace) -> Result<Arc<Table>, Error> {
        let mut tables = self.tables.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(table) = tables.get(ns) {
            return Ok(Arc::clone(table));
        }
        let table = Arc::new(Table::new(self.db.open_tree(ns.as_str())?));
        tables.insert(ns.clone(), Arc::clone(&table));
        Ok(table)
    }

    fn make_at_home(&self, ns: &Namespace, name: &IVec, kind: Kind) -> Result<Arc<Table>, Error> {
        loop {
            let home = match self.homes().entry(name.clone()) {
                Entry::Occupied(home) => Arc::clone(home.get()),
                Entry::Vacant(place) => {
                    raise_schema(&self.meta)?;
                    let tree = self.db.open_tree(name)?;
                    Arc::clone(place.insert(Arc::new(Home::new(name.clone(), tree, self.meta.clone()))))
                }
            };
            let mut kinds = home.kinds();
            if kinds.gone {
                continue;
            }
            if let Some(table) = self.table(ns) {
                return Ok(table);
            }
            home.add(&mut kinds, kind)?;
            let table = Arc::new(Table::under(&home, kind, false));
            self.tables.write().unwrap_or_else(PoisonError::into_inner).insert(ns.clone(), Arc::clone(&table));
            return Ok(table);
        }
    }
}
