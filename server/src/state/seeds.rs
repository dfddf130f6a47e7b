//! Which homes may give a version's bundle to the one that asks (F65): those that hold it, are online, and may send to it.

use super::Core;
use crate::customers::Caller;
use crate::directory::HomeRow;
use crate::error::Result;
use crate::orders::steps::GRANT_HOLDS_S;
use crate::restrictions;
use mantel_protocol::api::{MAX_SEEDS, SeedOffer};
use mantel_protocol::grant::SeedGrant;
use mantel_protocol::ids::GrantId;
use mantel_protocol::restriction::{Party, judge_bundle};
use mantel_protocol::token::{Validity, sign};
use mantel_protocol::update::Version;

/// Of the homes that hold a bundle, so many are looked at: most are online.
const MAX_LOOKED_AT: i64 = 5 * MAX_SEEDS as i64;

impl Core {
    /// Leave to fetch the bundle from some homes that have it; none is named where the server has to send it itself.
    /// Each call names others, so that those who ask spread over those who have it.
    pub async fn seeds(&self, caller: &Caller, version: Version) -> Result<Vec<SeedOffer>> {
        let offer = self.releases.offer_for(caller, version).await?;
        let holders = self
            .releases
            .holders(caller, version, MAX_LOOKED_AT)
            .await?;
        let mut seeds = Vec::new();
        for home in holders {
            if seeds.len() == MAX_SEEDS {
                break;
            }
            let Some(seed) = self.directory.home(home).await? else {
                continue;
            };
            let addresses = seed.reachable_at();
            if !seed.online || addresses.is_empty() || !self.may_seed(&seed, caller).await? {
                continue;
            }
            let grant = SeedGrant {
                id: GrantId::generate(),
                version,
                bundle: offer.bundle,
                bundle_bytes: offer.size_bytes,
                sender: seed.device,
                receiver: caller.device,
                validity: Validity::from_now(self.clock.now(), GRANT_HOLDS_S),
            };
            seeds.push(SeedOffer {
                grant: sign(self.server.signing_key(), &grant),
                addresses,
            });
        }
        Ok(seeds)
    }

    async fn may_seed(&self, seed: &HomeRow, caller: &Caller) -> Result<bool> {
        let (home, receiver) = (seed.id, caller.home);
        let rules = self
            .db
            .read(move |c| restrictions::store::for_homes(c, &[home, receiver]))
            .await?;
        let sender = Party {
            home,
            active: seed.active,
        };
        let receiver = Party {
            home: receiver,
            active: caller.active,
        };
        Ok(judge_bundle(&rules, sender, receiver).is_ok())
    }
}
