//! The contract between a sync and the collection that it writes to: what the cluster would refuse, and what it would do
//! that people should know beforehand.

use larder_types::api::CollectionInfo;

use crate::project::SyncSpec;

/// What speaks against a sync, and what is worth knowing.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Contract {
    /// What makes every run fail.
    pub(crate) problems: Vec<String>,
    /// What the next run does to the collection beside writing rows.
    pub(crate) remarks: Vec<String>,
}

/// Holds a sync against its collection.
pub(crate) fn check(spec: &SyncSpec, info: &CollectionInfo) -> Contract {
    let mut contract = Contract::default();
    let collection = &spec.collection;
    let ours = |name: &str| spec.fields.iter().find(|field| field.name.as_str() == name);
    for field in &info.fields {
        let name = field.name.as_str();
        match ours(name) {
            Some(_) if field.sync != spec.name => contract.problems.push(format!(
                "field `{name}` of collection `{collection}` belongs to sync `{}` in the cluster; drop it from one of \
                 the two",
                field.sync
            )),
            Some(mapped) if mapped.kind != field.kind => contract.remarks.push(format!(
                "field `{name}` of collection `{collection}` changes from {} to {}: lookups do not show it until the \
                 next run has sent the row",
                field.kind, mapped.kind
            )),
            None if field.sync == spec.name => contract.remarks.push(format!(
                "field `{name}` of collection `{collection}` is no longer written: the next run takes it out of all \
                 records"
            )),
            _ => {}
        }
    }
    if let (Some(ours), Some(theirs)) = (&spec.primary_index, info.indexes.first())
        && *ours != theirs.name
    {
        contract.problems.push(format!(
            "the primary index of collection `{collection}` is `{}` and cannot become `{ours}`; correct `primary_index`",
            theirs.name
        ));
    }
    contract
}

#[cfg(test)]
mod tests {
    use larder_types::value::ValueType;

    use super::*;
    use crate::mapping::option_tests::plain_sync;

    #[test]
    fn what_the_cluster_would_refuse_is_told_from_what_it_would_do() {
        let mut spec = plain_sync(&[("name", ValueType::Any), ("age", ValueType::Int), ("mail", ValueType::Any)]);
        spec.primary_index = Some("id".parse().unwrap());
        let info = serde_json::from_value(serde_json::json!({
            "name": "c", "records": 0, "bytes": 0, "revision": "r",
            "indexes": [{"name": "key", "primary": true}],
            "syncs": [],
            "fields": [
                {"name": "name", "type": "any", "sync": spec.name},
                {"name": "age", "type": "string", "sync": spec.name},
                {"name": "mail", "type": "any", "sync": "crm"},
                {"name": "old", "type": "any", "sync": spec.name},
                {"name": "theirs", "type": "any", "sync": "crm"},
            ],
        }))
        .unwrap();
        let Contract { problems, remarks } = check(&spec, &info);
        assert_eq!((problems.len(), remarks.len()), (2, 2), "{problems:?} {remarks:?}");
        assert!(problems[0].contains("`mail`") && problems[0].contains("`crm`"), "{problems:?}");
        assert!(problems[1].contains("is `key` and cannot become `id`"), "{problems:?}");
        assert!(remarks[0].contains("`age`") && remarks[0].contains("from string to int"), "{remarks:?}");
        assert!(remarks[1].contains("`old`"), "{remarks:?}");
    }
}
