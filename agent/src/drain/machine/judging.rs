//! Verdicts: what they change, and when to look again.

use std::time::Duration;

use super::{BACKUP, Machine};
use crate::drain::{Action, Boot, Judgement, Phase, Verdict};

/// Time between two looks when only handshakes or lingering connections are left, which end without an event.
pub const SOON: Duration = Duration::from_millis(20);
/// The same while flows are left too, which do end with an event, or only connections of the service's own.
const NOT_SO_SOON: Duration = Duration::from_millis(200);

impl Machine {
    pub(super) fn judged(&mut self, judgement: Judgement, now: Boot, out: &mut Vec<Action>) {
        let Judgement { verdict, at, silent } = judgement;
        if at < self.look_from {
            return self.verify(now, out);
        }
        self.look_from = at;
        self.recheck_at = now + self.pause(&verdict, silent);
        self.unknown = None;
        match verdict {
            Verdict::Empty if self.is_held(now) => self.empty_but_held(now, out),
            Verdict::Empty => {
                self.proven_at = at;
                if self.phase != Phase::Drained {
                    self.go(Phase::Drained, "zero is proven", out);
                }
            }
            Verdict::NotEmpty(counts) => {
                if self.phase == Phase::Drained {
                    if counts.flows > 0 {
                        self.came_after_zero(out);
                    }
                    self.fall_back(&format!("a look found {counts}"), now, out);
                }
                self.not_empty_after_abort(&format!("a look found {counts}"), out);
            }
            Verdict::Unknown(reason) => {
                if self.phase == Phase::Drained {
                    self.fall_back(&format!("the count cannot be verified: {reason}"), now, out);
                }
                self.not_empty_after_abort(&format!("the count cannot be verified: {reason}"), out);
                self.unknown = Some(reason);
            }
        }
    }

    /// How long after this verdict to look again if nothing hints at a change.
    fn pause(&mut self, verdict: &Verdict, silent: bool) -> Duration {
        let pause = match verdict {
            Verdict::Unknown(_) if silent => {
                let pause = self.patience;
                self.patience = (pause * 2).min(BACKUP);
                return pause;
            }
            Verdict::NotEmpty(counts)
                if silent && counts.flows == 0 && counts.handshakes + counts.lingering > 0 =>
            {
                SOON
            }
            Verdict::NotEmpty(_) if silent => NOT_SO_SOON,
            _ => BACKUP,
        };
        self.patience = SOON;
        pause
    }
}
