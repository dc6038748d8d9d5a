//! Why a key's record is as it is, in one sentence. Pure: facts in, words out.

use super::records::Record;

/// What is known of a key's row in the source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RowFact {
    /// The query has no such row.
    Absent,
    /// It has several.
    Several,
    /// It has one, which cannot be mapped.
    Unmappable,
    /// It has one.
    Mapped,
}

/// What the acknowledged state says of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Acknowledged {
    /// No run has ended for this destination, or the state says nothing about what the cluster holds now.
    Nothing,
    /// It was never acknowledged, or its removal was.
    Absent,
    /// The cluster may or may not have taken it.
    InDoubt,
    /// It was acknowledged as another row than the present one.
    Differs,
    /// It was acknowledged as it is.
    Same,
    /// That is kept in the warehouse, as hashes of the warehouse's own.
    InWarehouse,
}

impl Acknowledged {
    /// The word for it.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::Absent => "absent",
            Self::InDoubt => "in_doubt",
            Self::Differs => "differs",
            Self::Same => "same",
            Self::InWarehouse => "in_warehouse",
        }
    }
}

/// All that a verdict is made of.
#[derive(Debug, Clone, Copy)]
pub(super) struct Facts<'a> {
    pub(super) row: RowFact,
    pub(super) acknowledged: Acknowledged,
    /// Whether the newest run of the sync rejected the key, and why.
    pub(super) rejected: Option<&'a str>,
    pub(super) record: &'a Record,
    /// Whether the record has the fields that the row maps to.
    pub(super) agrees: bool,
    /// Whether the sync leaves records alone whose rows have left.
    pub(super) keeps: bool,
}

/// The sentence.
pub(super) fn verdict(facts: Facts<'_>) -> String {
    let Facts { row, acknowledged, rejected, record, agrees, keeps } = facts;
    match row {
        RowFact::Several => {
            "the query has several rows with this key, so none is sent: make the key unique in the query".to_owned()
        }
        RowFact::Unmappable => {
            "the row cannot be mapped, so each run rejects it and the record stays as it is: see the error".to_owned()
        }
        RowFact::Absent => left(acknowledged, record, keeps).to_owned(),
        RowFact::Mapped => match rejected {
            Some(why) => format!("the row was rejected, and each run tries it again: {why}"),
            None => present(acknowledged, record, agrees).to_owned(),
        },
    }
}

/// The query does not have the row.
fn left(acknowledged: Acknowledged, record: &Record, keeps: bool) -> &'static str {
    use Acknowledged::{Absent, Differs, InDoubt, InWarehouse, Nothing, Same};
    match (acknowledged, record) {
        (Same | Differs | InDoubt, Record::Found { .. }) if keeps => {
            "the row has left the query, and `on_exit: keep` leaves its record as it is"
        }
        (Same | Differs | InDoubt, _) if !keeps => "the row has left the query: the next run removes it",
        (InWarehouse, Record::Found { .. }) if keeps => {
            "the row has left the query, and `on_exit: keep` leaves its record as it is"
        }
        (InWarehouse, Record::Found { .. }) => {
            "the row has left the query: the next run removes the record, if this sync wrote it (`diff: warehouse` keeps \
             what was acknowledged in the warehouse)"
        }
        (_, Record::Absent) => "there is neither a row nor a record: the key is not in the query, look there",
        (Nothing, Record::Found { .. }) => {
            "the query has no such row, and this state does not know the record: another sync, an earlier state or \
             somebody else wrote it; a full run removes what this sync wrote"
        }
        (Absent, Record::Found { .. }) if keeps => {
            "the row has left the query, and `on_exit: keep` leaves its record as it is"
        }
        (Absent, Record::Found { .. }) => {
            "the row has left the query and its removal was acknowledged: what is left belongs to other syncs, or was \
             written by others"
        }
        (_, Record::Found { .. } | Record::Unknown { .. }) => "the query has no such row",
    }
}

/// The query has the row.
fn present(acknowledged: Acknowledged, record: &Record, agrees: bool) -> &'static str {
    use Acknowledged::{Absent, Differs, InDoubt, InWarehouse, Nothing, Same};
    match (acknowledged, record) {
        (Same, Record::Found { .. }) if agrees => "the record is as the row says, and was acknowledged so",
        (Same, Record::Found { .. }) => {
            "the row was acknowledged as it is, but the record differs: somebody else has changed it since, or this \
             lookup came from a replica that is behind; a full run repairs it"
        }
        (Same, Record::Absent) => {
            "the row was acknowledged as it is, but there is no record: another sync or somebody else has deleted it; a \
             full run repairs it"
        }
        (Same, Record::Unknown { .. }) => "the row was acknowledged as it is; the cluster cannot be asked",
        (InWarehouse, Record::Found { .. }) if agrees => "the record is as the row says",
        (InWarehouse, _) => {
            "the record is not as the row says: the next run sends the row, if it has changed since it was acknowledged \
             (`diff: warehouse` keeps that in the warehouse); a full run sends it in any case"
        }
        (Differs, _) => "the row has changed since it was acknowledged: the next run sends it",
        (InDoubt, _) => "a run was cut off before the cluster's answer was heard: the next run sends the row again",
        (Absent, _) => "the row is new, or was not acknowledged yet: the next run sends it",
        (Nothing, _) => {
            "nothing was acknowledged by this cluster yet, or no longer counts: the next run sends every row"
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn the_sentence_says_what_happens_next() {
        let found = Record::Found { fields: BTreeMap::new() };
        let unknown = Record::Unknown { reason: "away".into() };
        let facts = Facts {
            row: RowFact::Mapped,
            acknowledged: Acknowledged::Same,
            rejected: None,
            record: &found,
            agrees: true,
            keeps: false,
        };
        let absent = Facts { row: RowFact::Absent, ..facts };
        for (facts, expected) in [
            (facts, "is as the row says"),
            (Facts { agrees: false, ..facts }, "a full run repairs it"),
            (Facts { record: &Record::Absent, ..facts }, "has deleted it"),
            (Facts { record: &unknown, ..facts }, "cannot be asked"),
            (Facts { acknowledged: Acknowledged::Differs, ..facts }, "the next run sends it"),
            (Facts { acknowledged: Acknowledged::InDoubt, ..facts }, "sends the row again"),
            (Facts { acknowledged: Acknowledged::Nothing, ..facts }, "sends every row"),
            (Facts { acknowledged: Acknowledged::InWarehouse, ..facts }, "as the row says"),
            (Facts { acknowledged: Acknowledged::InWarehouse, agrees: false, ..facts }, "a full run sends it"),
            (Facts { rejected: Some("too large"), ..facts }, "tries it again: too large"),
            (Facts { row: RowFact::Several, ..facts }, "several rows"),
            (Facts { row: RowFact::Unmappable, ..facts }, "cannot be mapped"),
            (absent, "the next run removes it"),
            (Facts { keeps: true, ..absent }, "`on_exit: keep`"),
            (Facts { acknowledged: Acknowledged::Absent, ..absent }, "its removal was acknowledged"),
            (
                Facts { acknowledged: Acknowledged::Absent, record: &Record::Absent, ..absent },
                "neither a row nor a record",
            ),
            (Facts { acknowledged: Acknowledged::Nothing, ..absent }, "does not know the record"),
            (Facts { acknowledged: Acknowledged::InWarehouse, ..absent }, "if this sync wrote it"),
        ] {
            let sentence = verdict(facts);
            assert!(sentence.contains(expected), "{facts:?}: {sentence}");
        }
    }
}
