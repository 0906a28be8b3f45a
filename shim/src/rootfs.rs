//! Mounts a container's root filesystem, as containerd asks for it.

use std::path::{Path, PathBuf};

use containerd_shim::mount::mount_rootfs;
use sandbox::idmap::{self, Depth, IdMap, IdRange};

use crate::error::{Failure, Kind};

/// A mount of the container's root filesystem.
#[derive(Debug, Clone)]
pub(crate) struct RootfsMount {
    pub(crate) kind: String,
    pub(crate) source: String,
    pub(crate) options: Vec<String>,
}

impl RootfsMount {
    /// Mounts it at `target`; `scratch` is an empty folder, which stays empty.
    ///
    /// # Errors
    /// When its options are not understood, or the kernel refuses.
    pub(crate) fn mount(&self, target: &Path, scratch: &Path) -> Result<(), Failure> {
        match self.map()? {
            None => self.plain(&self.options, target),
            Some((map, options)) => self.mapped(&map, &options, target, scratch),
        }
    }

    fn plain(&self, options: &[String], target: &Path) -> Result<(), Failure> {
        let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let (kind, source) = (some(&self.kind), some(&self.source));
        mount_rootfs(kind.as_deref(), source.as_deref(), options, target)
            .map_err(|err| Failure::internal("cannot mount the root filesystem", &err))
    }

    /// The mapping of owners that `uidmap=` and `gidmap=` ask for, of a pod whose users are its own, and the other options.
    fn map(&self) -> Result<Option<(IdMap, Vec<String>)>, Failure> {
        let (mut users, mut groups, mut others) = (Vec::new(), Vec::new(), Vec::new());
        for option in &self.options {
            let ranges = match (option.strip_prefix("uidmap="), option.strip_prefix("gidmap=")) {
                (Some(text), _) => Some((&mut users, text)),
                (_, Some(text)) => Some((&mut groups, text)),
                (None, None) => None,
            };
            let Some((ranges, text)) = ranges else {
                others.push(option.clone());
                continue;
            };
            let parsed: Option<Vec<IdRange>> = text.split(',').map(IdRange::parse).collect();
            *ranges = parsed.ok_or_else(|| {
                Failure::new(
                    Kind::Invalid,
                    format!("the root filesystem's option {option:?} is no range of ids"),
                )
            })?;
        }
        if users.is_empty() && groups.is_empty() {
            return Ok(None);
        }
        let map = IdMap::new(&users, &groups)
            .map_err(|err| Failure::internal("cannot map the owners of the root filesystem", &err))?;
        Ok(Some((map, others)))
    }

    fn mapped(&self, map: &IdMap, options: &[String], target: &Path, scratch: &Path) -> Result<(), Failure> {
        let failed =
            |err: std::io::Error| Failure::internal("cannot map the owners of the root filesystem", &err);
        let tree = if self.kind == "overlay" {
            // An overlay cannot be mapped, its layers can.
            idmap::apart(scratch, failed, || self.overlay(map, options, scratch))?
        } else {
            map.copy(Path::new(&self.source), Depth::Top).map_err(failed)?
        };
        idmap::attach(&tree, target).map_err(failed)
    }

    /// Mounts the overlay beneath `scratch`, of mapped copies of its layers, and gives its place.
    fn overlay(&self, map: &IdMap, options: &[String], scratch: &Path) -> Result<PathBuf, Failure> {
        let failed = |layer: &Path, err: &std::io::Error| {
            Failure::internal(&format!("cannot map the owners of the layer {}", layer.display()), err)
        };
        let (mut layers, mut options) = (Vec::new(), options.to_vec());
        for layer in options
            .iter()
            .filter_map(|option| option.strip_prefix("lowerdir="))
            .flat_map(|all| all.split(':'))
        {
            let (layer, place) = (Path::new(layer), scratch.join(layers.len().to_string()));
            std::fs::create_dir(&place)
                .and_then(|()| idmap::attach(&map.copy(layer, Depth::Top)?, &place))
                .map_err(|err| failed(layer, &err))?;
            layers.push(place.to_string_lossy().into_owned());
        }
        options.retain(|option| !option.starts_with("lowerdir="));
        options.push(format!("lowerdir={}", layers.join(":")));
        let place = scratch.join("root");
        std::fs::create_dir(&place).map_err(|err| failed(&place, &err))?;
        self.plain(&options, &place)?;
        Ok(place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_that_are_no_ranges_of_ids_are_refused() {
        let of = |options: &[&str]| RootfsMount {
            kind: "overlay".to_owned(),
            source: "overlay".to_owned(),
            options: options.iter().map(|option| (*option).to_owned()).collect(),
        };
        assert!(of(&["lowerdir=/a:/b"]).map().unwrap().is_none());
        assert!(of(&["uidmap=0:x:1", "gidmap=0:1:1"]).map().is_err());
    }
}
