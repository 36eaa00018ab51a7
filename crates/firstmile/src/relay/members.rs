//! The studios that may come, and the invites that let more in.

use std::time::SystemTime;

use tracing::info;

use super::Node;
use crate::identity::PublicKey;
use crate::status::{InviteInfo, StudioInfo, StudioState};
use crate::store::AdmittedStudio;
use crate::web::ApiError;

impl Node {
    /// Every studio that is here, or may come back, or was cut off; those who are here first.
    pub(super) fn studio_infos(&self) -> Vec<StudioInfo> {
        let admitted = self.lock_store().admitted.list().to_vec();
        let mut infos: Vec<_> = admitted.iter().map(AdmittedStudio::info).collect();
        for (key, studio) in self.lock_studios().iter().filter(|(_, studio)| studio.link.is_some())
        {
            let text = key.to_base32();
            let at = infos.iter().position(|info| info.key == text).unwrap_or_else(|| {
                infos.push(StudioInfo { key: text, ..StudioInfo::default() });
                infos.len() - 1
            });
            let info = &mut infos[at];
            studio.name().clone_into(&mut info.name);
            info.link = Some(studio.status(key));
            if info.state == StudioState::Away {
                info.state = StudioState::Connected;
            }
        }
        for feed in self.directory.borrow().feeds() {
            let key = feed.studio.to_base32();
            if let Some(info) = infos.iter_mut().find(|info| info.key == key) {
                info.feeds += 1;
            }
        }
        infos.sort_by_key(|info| (info.state as u8, info.name.clone(), info.key.clone()));
        infos
    }

    /// Cuts a studio off, or lets it in again. Who is cut off loses link, feeds and encoders at once,
    /// and comes back by an invite made later, or when it is let in again.
    pub(super) fn admit_studio(&self, key: &str, on: bool) -> Result<StudioInfo, ApiError> {
        let unknown = || ApiError::not_found("no such studio is known here", "see /api/v1/studios");
        let key = PublicKey::from_base32(key).ok_or_else(unknown)?;
        let name = self.lock_studios().get(&key).map(|studio| studio.name().to_owned());
        let mut store = self.lock_store();
        let is_known = name.is_some() || store.admitted.list().iter().any(|known| known.key == key);
        if !is_known {
            return Err(unknown());
        }
        if on {
            store.admitted.restore(&key)?;
        } else {
            store.admitted.cut_off(key, name.as_deref().unwrap_or_default(), SystemTime::now())?;
        }
        drop(store);
        info!(studio = %key, on, "its admission was switched");
        if !on {
            // Who is just being let in looks once more after it has got its place there.
            let link = self.lock_studios().get(&key).and_then(|studio| studio.link.clone());
            if let Some(link) = link {
                link.close("the relay's owner has cut this studio off");
            }
            self.expel(&key);
        }
        let infos = self.studio_infos();
        let text = key.to_base32();
        infos.into_iter().find(|info| info.key == text).ok_or_else(unknown)
    }

    /// Forgets a studio's feeds and ends their encoders.
    pub(super) fn expel(&self, key: &PublicKey) {
        let mut removed = Vec::new();
        self.directory.send_modify(|directory| removed = directory.expel(key));
        removed.iter().for_each(|feed| self.remove(feed));
    }

    /// The invites that still admit somebody.
    pub(super) fn invite_infos(&self) -> Vec<InviteInfo> {
        self.lock_store().invites.list(SystemTime::now())
    }

    /// Makes an invite worth nothing.
    pub(super) fn revoke(&self, id: &str) -> Result<(), ApiError> {
        if self.lock_store().invites.revoke(id)? {
            info!(invite = id, "revoked");
            return Ok(());
        }
        Err(ApiError::not_found("there is no such invite", "see /api/v1/invites"))
    }
}
