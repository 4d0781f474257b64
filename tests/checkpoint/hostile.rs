//! Every abuse of a file that we know of, and what comes of it. Each is an error that says so.

use flatleaf::{DynTree, checkpoint};
use safetensors::SafeTensors;

use crate::files::{Folder, f32s, load, open, raw, saved, tensors};

/// What is said of a file; opened and streamed alike.
fn refused(bytes: &[u8]) -> String {
    let error = open(bytes).unwrap_err();
    assert!(error.is_invalid_file(), "{error}");
    let folder = Folder::new();
    std::fs::write(folder.path("file"), bytes).unwrap();
    let streamed = checkpoint::scan(&[folder.path("file")], |_, _| ()).unwrap_err();
    assert!(streamed.is_invalid_file(), "{streamed}");
    let opened = checkpoint::open(folder.path("file")).unwrap_err();
    assert_eq!(opened, streamed);
    error.to_string()
}

fn one(header: &str) -> String {
    refused(&raw(header, &f32s(&[1.0, 2.0])))
}

#[test]
fn truncated() {
    let whole = tensors(&[("a", "F32", &f32s(&[1.0, 2.0]))], "");
    for len in 0..whole.len() {
        refused(&whole[..len]);
    }
    assert_eq!(
        refused(b""),
        "expected the length of a header in 8 bytes, found a file of 0 bytes"
    );
    assert_eq!(
        refused(b"\x01\0\0"),
        "expected the length of a header in 8 bytes, found a file of 3 bytes"
    );
    let data = refused(&whole[..whole.len() - 1]);
    assert_eq!(
        data,
        "`a`: expected bytes within the data, which has 7, found bytes 0 to 8"
    );
}

#[test]
fn a_header_longer_than_the_file() {
    let found = refused(&[33_u64.to_le_bytes().as_slice(), b"{}"].concat());
    assert_eq!(
        found,
        "expected a header within the file, found one of 33 bytes in a file of 10"
    );
}

#[test]
fn a_header_longer_than_the_format_allows() {
    for length in [100_000_001, u64::MAX, u64::MAX - 7, 1 << 63] {
        let found = refused(&[length.to_le_bytes().as_slice(), b"{}"].concat());
        assert_eq!(
            found,
            format!(
                "expected a header of at most 100000000 bytes, found one of {length} (is it a safetensors file?)"
            )
        );
    }
}

#[test]
fn no_utf8() {
    let found = refused(&[4_u64.to_le_bytes().as_slice(), b"{\"\xff\""].concat());
    assert!(
        found.starts_with(
            "expected a header in UTF-8, found invalid utf-8 sequence of 1 bytes from index 2"
        ),
        "{found}"
    );
}

#[test]
fn no_json() {
    for header in [
        "",
        "{",
        "[]",
        "3",
        "null",
        "{\"a\"}",
        "{}x",
        "{}\0",
        "{\"a\":null}",
        "{\"\\ud800\":{}}",
    ] {
        let found = one(header);
        assert!(
            found.contains("expected a header in JSON"),
            "{header}: {found}"
        );
    }
}

#[test]
fn nested_where_nothing_is() {
    let deep = format!(
        r#"{{"a":{{"dtype":"F32","shape":[2],"data_offsets":[0,8],"x":{}0{}}}}}"#,
        "[".repeat(100_000),
        "]".repeat(100_000)
    );
    assert!(one(&deep).contains("unknown field `x`"));
    assert!(one(&"[".repeat(100_000)).contains("expected a map of tensors"));
}

#[test]
fn an_unknown_type() {
    assert!(
        one(r#"{"a":{"dtype":"F33","shape":[2],"data_offsets":[0,8]}}"#)
            .contains("unknown variant `F33`")
    );
}

#[test]
fn a_list_in_place_of_a_map() {
    let found = one(r#"{"a":["F32",[2],[0,8]]}"#);
    assert!(
        found.contains("invalid type: sequence, expected a map with dtype, shape and data_offsets"),
        "{found}"
    );
}

#[test]
fn numbers_that_are_none() {
    for number in ["-1", "1.0", "1e0", "18446744073709551616", "\"2\"", "null"] {
        one(&format!(
            r#"{{"a":{{"dtype":"F32","shape":[{number}],"data_offsets":[0,8]}}}}"#
        ));
        one(&format!(
            r#"{{"a":{{"dtype":"F32","shape":[2],"data_offsets":[0,{number}]}}}}"#
        ));
    }
}

#[test]
fn overlapping() {
    let header = r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}"#;
    assert_eq!(
        one(header),
        "`b`: expected bytes from 8 on, found bytes 4 to 8: an overlap"
    );
    let same = r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#;
    assert_eq!(
        one(same),
        "`b`: expected bytes from 8 on, found bytes 0 to 8: an overlap"
    );
}

#[test]
fn with_gaps() {
    let between = r#"{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"b":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}"#;
    assert_eq!(
        one(between),
        "`b`: expected bytes from 2 on, found bytes 4 to 8: a gap"
    );
    let before = r#"{"b":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}"#;
    assert_eq!(
        one(before),
        "`b`: expected bytes from 0 on, found bytes 4 to 8: a gap"
    );
    assert_eq!(
        one(r#"{"b":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#),
        "expected 4 bytes of data, found 8"
    );
}

#[test]
fn a_shape_that_does_not_fit() {
    let header = |shape: &str, end: &str| {
        format!(r#"{{"a":{{"dtype":"F32","shape":{shape},"data_offsets":[0,{end}]}}}}"#)
    };
    assert_eq!(
        one(&header("[3]", "8")),
        "`a`: expected 12 bytes for F32 of shape [3], found bytes 0 to 8"
    );
    assert_eq!(
        one(&header("[0]", "8")),
        "`a`: expected 0 bytes for F32 of shape [0], found bytes 0 to 8"
    );
    assert_eq!(
        one(&header("[3]", "12")),
        "`a`: expected bytes within the data, which has 8, found bytes 0 to 12"
    );
    let backwards = one(
        r#"{"z":{"dtype":"U8","shape":[8],"data_offsets":[0,8]},"a":{"dtype":"F32","shape":[2],"data_offsets":[8,0]}}"#,
    );
    assert_eq!(
        backwards,
        "`a`: expected 8 bytes for F32 of shape [2], found bytes 8 to 0"
    );
}

#[test]
fn a_shape_that_overflows() {
    let max = usize::MAX;
    for shape in [
        format!("[{max},{max}]"),
        format!("[{max}]"),
        "[4611686018427387904,8]".into(),
        format!("[0,{max},2]"),
    ] {
        let found = one(&format!(
            r#"{{"a":{{"dtype":"F32","shape":{shape},"data_offsets":[0,8]}}}}"#
        ));
        assert!(
            found.starts_with("`a`: expected whole bytes that memory can hold, found shape ["),
            "{found}"
        );
    }
    let offsets = format!(r#"{{"a":{{"dtype":"U8","shape":[{max}],"data_offsets":[0,{max}]}}}}"#);
    assert!(one(&offsets).contains("whole bytes that memory can hold"));
}

#[test]
fn half_a_byte() {
    let found = one(r#"{"a":{"dtype":"F4","shape":[3],"data_offsets":[0,1]}}"#);
    assert_eq!(
        found,
        "`a`: expected whole bytes that memory can hold, found shape [3]"
    );
}

/// The crate lets the last of two equal names win.
#[test]
fn a_name_twice() {
    let header = r#"{"a":{"dtype":"U8","shape":[8],"data_offsets":[0,8]},"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#;
    assert!(SafeTensors::deserialize(&raw(header, &f32s(&[1.0, 2.0]))).is_ok());
    assert_eq!(
        one(header),
        "`a`: expected bytes from 8 on, found bytes 0 to 8: an overlap"
    );
    let empty = r#"{"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#;
    assert_eq!(one(empty), "`a`: expected each name once, found it twice");
    let escaped = r#"{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"\u0061":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}"#;
    assert_eq!(one(escaped), "`a`: expected each name once, found it twice");
}

#[test]
fn keys_twice() {
    assert!(one(r#"{"__metadata__":{},"__metadata__":{}}"#).contains("`__metadata__` twice"));
    assert!(one(r#"{"__metadata__":{"a":"b","a":"c"}}"#).contains("the key `a` twice"));
    assert!(
        one(r#"{"a":{"dtype":"F32","dtype":"U8","shape":[2],"data_offsets":[0,8]}}"#)
            .contains("duplicate field `dtype`")
    );
    assert!(
        one(r#"{"a":{"dtype":"F32","shape":[2],"shape":[2],"data_offsets":[0,8]}}"#)
            .contains("duplicate field `shape`")
    );
}

#[test]
fn fields_that_are_missing() {
    assert!(one(r#"{"a":{"shape":[2],"data_offsets":[0,8]}}"#).contains("missing field `dtype`"));
    assert!(one(r#"{"a":{"dtype":"F32","data_offsets":[0,8]}}"#).contains("missing field `shape`"));
    assert!(one(r#"{"a":{"dtype":"F32","shape":[2]}}"#).contains("missing field `data_offsets`"));
    assert!(one(r#"{"__metadata__":null}"#).contains("expected a map of strings"));
}

/// Ours are notes of ours, or an error: nobody else writes them.
#[test]
fn metadata_of_ours_that_is_none() {
    let with = |metadata: &str| refused(&tensors(&[("a", "F32", &f32s(&[1.0, 2.0]))], metadata));
    assert!(
        with(r#"{"flatleaf.parts":"nonsense"}"#)
            .starts_with("`flatleaf.parts`: expected metadata as this crate writes it")
    );
    assert!(
        with(r#"{"flatleaf.axes":"{\"b\":3}"}"#)
            .starts_with("`flatleaf.axes`: expected metadata as this crate writes it")
    );
    let axes = |shape: &str, axes: &str| {
        with(&format!(
            r#"{{"b":"a","flatleaf.axes":"{{\"b\":{{\"shape\":{shape},\"axes\":{axes}}}}}"}}"#
        ))
    };
    for (shape, map) in [
        ("[3]", "[[0,false]]"),
        ("[2]", "[[1,false]]"),
        ("[2]", "[]"),
        ("[2,2]", "[[0,false],[0,false]]"),
    ] {
        assert!(
            axes(shape, map).starts_with("`b`: expected axes that fit the tensor"),
            "{shape} {map}"
        );
    }
}

#[test]
fn a_byte_that_is_no_boolean() {
    let bytes = tensors(&[("flags", "BOOL", &[0, 1, 2])], "");
    let mut model = DynTree::map([("flags", DynTree::from(vec![false; 3]))]);
    let file = open(&bytes).unwrap();
    let expected = "`flags`: expected booleans, bytes of 0 or 1, found a byte of 2";
    assert_eq!(load(&bytes, &mut model).unwrap_err().to_string(), expected);
    assert_eq!(
        file.view::<bool>("flags").unwrap_err().to_string(),
        expected
    );
    assert_eq!(DynTree::of(&file).unwrap_err().to_string(), expected);
    assert_eq!(
        model,
        DynTree::map([("flags", DynTree::from(vec![false; 3]))])
    );
}

#[test]
fn names_that_make_no_tree() {
    let both = open(&tensors(&[("a", "U8", &[1]), ("a.b", "U8", &[2])], "")).unwrap();
    let error = both.layout().unwrap_err();
    assert!(error.is_invalid_file());
    assert_eq!((error.path(), error.other_path()), (Some("a"), Some("a.b")));
    assert_eq!(
        error.to_string(),
        "`a` and `a.b`: expected names of which none is the beginning of another's path, found a \
         tensor of the first name, and one below it"
    );
    assert_eq!(both.view::<u8>("a.b").unwrap()[0], 2);
    let root = open(&tensors(&[("", "U8", &[1]), ("a", "U8", &[2])], "")).unwrap();
    assert!(root.layout().unwrap_err().is_invalid_file());
    // What comes between them in the alphabet does not part them.
    let three = [
        ("l.w", "U8", &[1][..]),
        ("l.w-b", "U8", &[2]),
        ("l.w.absmax", "U8", &[3]),
    ];
    let error = DynTree::of(&open(&tensors(&three, "")).unwrap()).unwrap_err();
    assert_eq!(error.path(), Some("l.w"));
    assert_eq!(error.other_path(), Some("l.w.absmax"));
    let deep = open(&tensors(&[(&"a.".repeat(2000), "U8", &[1])], "")).unwrap();
    assert!(deep.layout().unwrap_err().is_too_deep());
}

#[test]
fn more_axes_than_arrays_have_elsewhere() {
    let with = |axes: usize| {
        let shape = vec!["1"; axes].join(",");
        format!(r#"{{"a":{{"dtype":"U8","shape":[{shape}],"data_offsets":[0,1]}}}}"#)
    };
    let file = open(&raw(&with(64), &[7])).unwrap();
    assert_eq!(file.view::<u8>("a").unwrap().ndim(), 64);
    assert_eq!(
        refused(&raw(&with(65), &[7])),
        "`a`: expected at most 64 axes, found 65 of them"
    );
    let shape = vec!["1"; 20_000].join(",");
    let metadata =
        format!(r#"{{"b":"a","flatleaf.axes":"{{\"b\":{{\"shape\":[{shape}],\"axes\":[]}}}}"}}"#);
    assert_eq!(
        refused(&tensors(&[("a", "U8", &[7])], &metadata)),
        "`b`: expected at most 64 axes, found 20000 of them"
    );
}

/// Names that are no paths as this crate writes them: stars, backslashes, empty segments. Whatever
/// they are, one name is one leaf in every way of reading.
#[test]
fn names_that_are_written_otherwise() {
    for (name, path) in [
        ("a.*", "a.\\*"),
        ("a..b", "a.\\e.b"),
        ("a.", "a.\\e"),
        (".", "\\e.\\e"),
        ("*", "\\*"),
        ("a\\\\x", "a\\\\x"),
        ("a\\.b", "a\\.b"),
        ("a\\x", "a\\\\x"),
        ("", ""),
    ] {
        let json = name.replace('\\', "\\\\");
        let bytes = tensors(&[(&json, "F32", &f32s(&[7.0]))], "");
        let file = open(&bytes).unwrap();
        let layout = file.layout().unwrap();
        assert_eq!(layout.leaves()[0].path(), path, "{name}");
        assert_eq!(file.flat().unwrap(), [7.0].as_slice(), "{name}");
        assert_eq!(file.view::<f32>(name).unwrap()[0], 7.0);
        assert_eq!(file.view::<f32>(path).unwrap()[0], 7.0);
        let copy = DynTree::of(&file).unwrap();
        let mut target = copy.clone();
        load(&bytes, &mut target).unwrap();
        assert_eq!(target, copy);
        // And saved again it is a path.
        assert_eq!(open(&saved(&copy)).unwrap().tensors()[0].name(), path);
    }
    let twice = tensors(&[("a.*", "U8", &[1]), ("a.\\\\*", "U8", &[2])], "");
    assert!(
        DynTree::of(&open(&twice).unwrap())
            .unwrap_err()
            .is_invalid_file()
    );
    let mut target = DynTree::map([("a", DynTree::map([("*", DynTree::from(vec![0_u8]))]))]);
    assert!(load(&twice, &mut target).unwrap_err().is_duplicate());
}

/// A terminal obeys control characters; errors show them.
#[test]
fn control_characters_are_shown_and_not_printed() {
    let bytes = tensors(&[("a\\u001b[31m", "F32", &f32s(&[1.0]))], "");
    let mut model = flatleaf::tree!({ "b\n": [0.0] });
    let error = load(&bytes, &mut model).unwrap_err().to_string();
    assert!(
        error.contains("`a\\u{1b}[31m`") && error.contains("`b\\n`"),
        "{error}"
    );
    let found = one("{\"a\":{\"\\u001b\":1}}");
    assert!(found.contains("unknown field `\\u{1b}`"), "{found}");
    let lax = checkpoint::LoadOptions::new().lax();
    let report = open(&bytes).unwrap().load_into(&mut model, &lax).unwrap();
    assert!(
        !report
            .to_string()
            .contains(|character: char| character.is_control())
    );
}

/// Small headers that made quadratic work: many parts, many ties of many tensors, many dots.
#[test]
fn many_of_everything() {
    // Fewer in a debug build: what grows with their square takes minutes for these too.
    let many = if cfg!(debug_assertions) {
        12_000
    } else {
        30_000
    };
    let entry =
        |name: &str| format!(r#""{name}":{{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}"#);
    let tensors: Vec<String> = (0..many).map(|index| entry(&format!("t{index}"))).collect();
    let aliases: Vec<String> = (0..many)
        .map(|index| format!(r#""a{index}":"t{index}""#))
        .collect();
    let parts: Vec<String> = (0..many).map(|index| format!(r#"\"p{index}\""#)).collect();
    let header = format!(
        r#"{{"__metadata__":{{"flatleaf.parts":"[{}]",{}}},{}}}"#,
        parts.join(","),
        aliases.join(","),
        tensors.join(",")
    );
    let folder = Folder::new();
    std::fs::write(folder.path("a"), raw(&header, &[])).unwrap();
    let comparison = checkpoint::compare(folder.path("a"), folder.path("a")).unwrap();
    assert_eq!(comparison.tensors.len(), many);
    let file = checkpoint::open(folder.path("a")).unwrap();
    assert_eq!((file.parts().len(), file.aliases().count()), (many, many));
    assert_eq!(file.layout().unwrap().others().len(), 2 * many);
    let dots = entry(&"a.".repeat(200_000));
    let deep = open(&raw(&format!("{{{dots}}}"), &[])).unwrap();
    assert!(deep.layout().unwrap_err().is_too_deep());
}
