//! The maps of drains and of holds: what the next agent needs to go on with them.

use aya::{
    Pod,
    maps::{HashMap, MapData, MapError},
};
use drainctl_common::{ServiceKey, record::Record};

use super::{KernelError, loaded::is_missing, pins::Pins, tracker::key};
use crate::{drain::Service, failpoint};

/// Such a map as aya knows it.
pub(super) type Records = HashMap<MapData, ServiceKey, Record>;

/// All that are there.
pub(super) fn all(
    records: &Records,
    map: &'static str,
) -> Result<Vec<(Service, Vec<u8>)>, KernelError> {
    let mut found = Vec::new();
    for entry in records.iter() {
        let (key, record) = entry.map_err(|e| KernelError::op("read map", map, e))?;
        found.push((Service { netns: key.netns, port: key.port }, record.text().to_vec()));
    }
    Ok(found)
}

/// Saves a drain, in the place of what was there.
pub(super) fn save(drains: &mut Records, service: Service, text: &[u8]) -> Result<(), KernelError> {
    failpoint::pass("drain: to be saved");
    write(drains, "DRAINS", service, text)?;
    failpoint::pass("drain: saved");
    Ok(())
}

/// Removes a drain, if it is there.
pub(super) fn forget(drains: &mut Records, service: Service) -> Result<(), KernelError> {
    failpoint::pass("drain: to be forgotten");
    remove(drains, "DRAINS", service)
}

/// Writes one, in the place of what was there.
pub(super) fn write(
    records: &mut Records,
    map: &'static str,
    service: Service,
    text: &[u8],
) -> Result<(), KernelError> {
    let fail = |e: Box<dyn std::error::Error + Send + Sync>| {
        KernelError::op("write to a map", format!("{map}: {service}"), e)
    };
    let too_long = || fail(format!("{} bytes, at most {} fit", text.len(), Record::ROOM).into());
    let record = Record::of(text).ok_or_else(too_long)?;
    records.insert(key(service), record, 0).map_err(|e| fail(e.into()))
}

/// Removes one, if it is there.
pub(super) fn remove(
    records: &mut Records,
    map: &'static str,
    service: Service,
) -> Result<(), KernelError> {
    match records.remove(&key(service)) {
        Err(e) if !is_missing(&e) => {
            Err(KernelError::op("remove from a map", format!("{map}: {service}"), e))
        }
        _ => Ok(()),
    }
}

/// Takes in what agents of other versions have left in a map of this name, whose key and value are the same in each,
/// if it is not there yet.
pub(super) fn inherit<V: Pod>(
    ours: &mut HashMap<MapData, ServiceKey, V>,
    name: &'static str,
    others: &[Pins],
) -> Result<(), KernelError> {
    let fail = |e: MapError| KernelError::op("copy to map", name, e);
    for other in others {
        let Some(map) = other.map(name)? else { continue };
        let theirs: HashMap<MapData, ServiceKey, V> = map.try_into().map_err(fail)?;
        for entry in theirs.iter() {
            let (key, value) = entry.map_err(fail)?;
            if matches!(ours.get(&key, 0), Err(MapError::KeyNotFound)) {
                ours.insert(key, value, 0).map_err(fail)?;
            }
        }
    }
    Ok(())
}
