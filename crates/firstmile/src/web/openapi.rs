//! The API's description for programs: `openapi.json`, kept by hand and compared with the server.

use axum::http::header;
use axum::response::{IntoResponse, Response};

/// OpenAPI 3.1. A new route of `routes.rs` belongs under `paths`, a new field of an answer under
/// `components.schemas`; tests find what is forgotten.
const DOCUMENT: &str = include_str!("openapi.json");

pub(super) async fn show() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], DOCUMENT).into_response()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    use super::super::routes;
    use super::*;
    use crate::events::{Kind, Severity};
    use crate::status::{FeedState, Place};

    /// What is no part of the API: the page's files, and the page on which the way to a relay is
    /// measured.
    const BESIDE: [&str; 2] = ["pages.rs", "measure.rs"];

    fn document() -> Value {
        serde_json::from_str(DOCUMENT).unwrap()
    }

    #[test]
    fn every_route_is_described_and_no_other() {
        let document = document();
        assert!(document["openapi"].as_str().unwrap().starts_with("3.1."));
        let mut described = BTreeSet::new();
        for (path, methods) in document["paths"].as_object().unwrap() {
            for method in methods.as_object().unwrap().keys().filter(|key| *key != "parameters") {
                described.insert((method.clone(), path.clone()));
            }
        }
        let ours = |(method, path): (&str, &str)| (method.to_owned(), path.to_owned());
        let served: BTreeSet<_> = routes::list().map(ours).collect();
        let missing: Vec<_> = served.difference(&described).collect();
        assert!(missing.is_empty(), "describe these in web/openapi.json: {missing:?}");
        let extra: Vec<_> = described.difference(&served).collect();
        assert!(extra.is_empty(), "web/openapi.json has what is not served: {extra:?}");
    }

    /// Routes beside the list would not be seen by the test above.
    #[test]
    fn routes_are_in_the_list_only() {
        let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/src/web");
        let call = [".route", "("].concat();
        let mut found = Vec::new();
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            if name.ends_with(".rs") && !BESIDE.contains(&name.as_str()) {
                let count = std::fs::read_to_string(&path).unwrap().matches(&call).count();
                found.extend((count > 0).then_some((name, count)));
            }
        }
        let list = [("routes.rs".to_owned(), 1)];
        assert_eq!(found, list, "add routes to a list, see web/routes.rs");
    }

    #[test]
    fn every_operation_says_what_it_is_and_answers() {
        let document = document();
        let mut names = BTreeSet::new();
        for (path, methods) in document["paths"].as_object().unwrap() {
            for (method, operation) in methods.as_object().unwrap() {
                if method == "parameters" {
                    continue;
                }
                let what = format!("{method} {path}");
                assert!(operation["summary"].is_string(), "{what} has no summary");
                let name = operation["operationId"].as_str().unwrap_or_else(|| panic!("{what}"));
                assert!(names.insert(name.to_owned()), "{name} is there twice");
                let answers = operation["responses"].as_object().unwrap();
                assert!(!answers.is_empty(), "{what}");
                // What is in the path is described, here or beside the methods.
                for part in path.split('/').filter_map(|part| part.strip_prefix('{')) {
                    let name = part.trim_end_matches('}');
                    let lists = [&operation["parameters"], &methods["parameters"]];
                    let mut all = lists.into_iter().filter_map(Value::as_array).flatten();
                    assert!(
                        all.any(|one| resolve(&document, one)["name"] == name),
                        "{what}: {name}"
                    );
                }
            }
        }
    }

    fn resolve<'a>(document: &'a Value, value: &'a Value) -> &'a Value {
        match value["$ref"].as_str() {
            Some(place) => document.pointer(&place[1..]).unwrap_or_else(|| panic!("{place}")),
            None => value,
        }
    }

    #[test]
    fn references_lead_somewhere() {
        fn look(document: &Value, value: &Value) {
            match value {
                Value::Object(fields) => {
                    resolve(document, value);
                    fields.values().for_each(|field| look(document, field));
                }
                Value::Array(items) => items.iter().for_each(|item| look(document, item)),
                _ => {}
            }
        }
        let document = document();
        look(&document, &document);
    }

    #[test]
    fn words_are_all_there() {
        let document = document();
        let words = |name: &str| -> BTreeSet<String> {
            let list = &document["components"]["schemas"][name]["enum"];
            list.as_array().unwrap().iter().map(|word| word.as_str().unwrap().to_owned()).collect()
        };
        let of = |list: Vec<&str>| list.into_iter().map(str::to_owned).collect::<BTreeSet<_>>();
        assert_eq!(words("EventKind"), of(Kind::ALL.iter().map(|kind| kind.as_str()).collect()));
        assert_eq!(words("FeedState"), of(FeedState::ALL.iter().map(|s| s.as_str()).collect()));
        assert_eq!(words("Place"), of(Place::ALL.iter().map(|place| place.as_str()).collect()));
        let severities = [Severity::Info, Severity::Warning, Severity::Error];
        assert_eq!(words("Severity"), of(severities.iter().map(|s| s.as_str()).collect()));
    }
}
