//! All tenants and their keys.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use jiff::Timestamp;

use crate::{Key, KeyEntry, KeyId, Limits, Scope, Tenant, TenantName};

/// All tenants with their keys. A key is found by its id at once, however many there are.
#[derive(Clone, Debug, Default)]
pub struct Tenants {
    tenants: BTreeMap<TenantName, Arc<Tenant>>,
    keys: HashMap<KeyId, (TenantName, Arc<KeyEntry>)>,
}

/// Whose key it was.
#[derive(Clone, Debug)]
pub struct Authenticated {
    /// The tenant's name.
    pub name: TenantName,
    /// What the tenant may do.
    pub tenant: Arc<Tenant>,
    /// What is known of the key.
    pub key: Arc<KeyEntry>,
}

impl Tenants {
    /// One tenant with wide limits, and one key for everything: an installation of one's own.
    pub fn single(name: TenantName, key: &Key) -> Self {
        let mut tenants = Self::default();
        tenants.insert(name.clone(), Tenant { limits: Limits::wide(), ..Tenant::default() });
        let entry = KeyEntry::new(key.id().clone(), key.sha256(), Scope::ALL.to_vec(), None);
        tenants.insert_key(name, entry);
        tenants
    }

    /// Returns whose key this is, if it is known and has not ended.
    pub fn authenticate(&self, key: &str, now: Timestamp) -> Option<Authenticated> {
        let key = Key::parse(key)?;
        // Ids are public, so that an unknown one is answered sooner reveals nothing.
        let found = self.find(key.id(), now)?;
        found.key.is_of(&key).then_some(found)
    }

    /// Returns whose key has this id, if it is known and has not ended. An id proves nothing.
    pub fn find(&self, id: &KeyId, now: Timestamp) -> Option<Authenticated> {
        let (name, key) = self.keys.get(id)?;
        if key.is_expired(now) {
            return None;
        }
        let tenant = Arc::clone(self.tenants.get(name)?);
        Some(Authenticated { name: name.clone(), tenant, key: Arc::clone(key) })
    }

    /// What a tenant may do.
    pub fn get(&self, name: &TenantName) -> Option<&Arc<Tenant>> {
        self.tenants.get(name)
    }

    /// All tenants, by their names.
    pub fn iter(&self) -> impl Iterator<Item = (&TenantName, &Arc<Tenant>)> {
        self.tenants.iter()
    }

    /// A tenant's keys, by their ids; also those that have ended.
    pub fn keys_of(&self, name: &TenantName) -> Vec<&KeyEntry> {
        let own = self.keys.values().filter(|(owner, _)| owner == name);
        let mut own: Vec<&KeyEntry> = own.map(|(_, key)| &**key).collect();
        own.sort_unstable_by(|a, b| a.id.cmp(&b.id));
        own
    }

    /// The number of keys.
    pub fn key_count(&self) -> usize {
        self.keys.len()
    }

    pub(crate) fn insert(&mut self, name: TenantName, tenant: Tenant) {
        self.tenants.insert(name, Arc::new(tenant));
    }

    /// Adds a key; returns whether its id was free.
    pub(crate) fn insert_key(&mut self, name: TenantName, key: KeyEntry) -> bool {
        self.keys.insert(key.id.clone(), (name, Arc::new(key))).is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_known_until_it_ends_and_another_with_its_id_is_not() {
        let (key, now) = (Key::generate().unwrap(), Timestamp::UNIX_EPOCH);
        let name: TenantName = "acme".parse().unwrap();
        let mut tenants = Tenants::single(name.clone(), &key);
        let found = tenants.authenticate(key.expose(), now).unwrap();
        assert_eq!((found.name, found.key.scopes.as_slice()), (name.clone(), &Scope::ALL[..]));
        let forged = format!("eg_{}_{}", key.id(), &Key::generate().unwrap().expose()[12..]);
        assert!(tenants.authenticate(&forged, now).is_none() && tenants.authenticate("", now).is_none());
        let ends = Timestamp::from_second(60).unwrap();
        let entry = KeyEntry::new(key.id().clone(), key.sha256(), vec![Scope::Jobs], Some(ends));
        assert!(!tenants.insert_key(name, entry));
        assert!(tenants.authenticate(key.expose(), Timestamp::from_second(59).unwrap()).is_some());
        assert!(tenants.authenticate(key.expose(), ends).is_none());
    }
}
