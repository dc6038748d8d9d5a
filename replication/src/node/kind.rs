//! The kinds of requests that nodes send to each other beside those of replicas (`raft::network::Kind`).

/// What a node asks of another. Numbers of the wire: never reused, and none that replicas use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    /// Which cluster and node it is. Open to anybody.
    Who = 32,
    /// To be taken into the cluster. Open to anybody.
    Join = 33,
    /// What a node tells of itself.
    Report = 34,
    /// To propose commands to a group that it leads.
    Propose = 35,
    /// How far a group that it leads is committed, confirmed by a majority.
    ReadIndex = 36,
    /// To take the next step of a change of a group that it leads.
    Change = 37,
    /// To let another replica lead a group that it leads.
    Transfer = 38,
    /// A request of a client that it can answer.
    Forward = 39,
}

impl Kind {
    /// The kind with this number.
    pub(crate) fn of(number: u8) -> Option<Self> {
        [
            Self::Who,
            Self::Join,
            Self::Report,
            Self::Propose,
            Self::ReadIndex,
            Self::Change,
            Self::Transfer,
            Self::Forward,
        ]
        .into_iter()
        .find(|kind| *kind as u8 == number)
    }

    /// Whether a node that is no member may ask it.
    pub(crate) fn is_open(self) -> bool {
        matches!(self, Self::Who | Self::Join)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::network::Kind as OfReplicas;

    #[test]
    fn no_number_means_two_things() {
        let both = (0..=u8::MAX).filter(|number| Kind::of(*number).is_some() && OfReplicas::of(*number).is_some());
        assert_eq!(both.count(), 0);
        assert!((0..=u8::MAX).filter_map(Kind::of).all(|kind| Kind::of(kind as u8) == Some(kind)));
    }
}
