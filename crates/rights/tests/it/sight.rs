//! The indexed answers of a `Sight` equal those of the grants.

use meshagent_rights::{
    ApiScope, FileAction, FilePathRule, FilesPolicy, Sight, StorageGrant, StoragePathGrant,
    SyncGrant, SyncPathGrant,
};

use crate::test;

/// A small generator (`SplitMix64`, Steele et al. 2014).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(bound).unwrap()).unwrap()
    }

    fn one_in(&mut self, count: usize) -> bool {
        self.below(count) == 0
    }

    /// Few names, some of them prefixes of others, and some that sort around `/`, so that many
    /// paths are nested or equal.
    fn path(&mut self) -> String {
        const NAMES: [&str; 12] = [
            "a", "aa", "a-", "a.", "a0", "b", "é", "e\u{301}", "日本", "日", "ab c", "*",
        ];
        let mut path = String::new();
        for _ in 0..self.below(5) {
            if !path.is_empty() {
                path.push('/');
            }
            path.push_str(NAMES[self.below(NAMES.len())]);
        }
        match self.below(60) {
            0 => path.push('/'),
            1 => path.insert(0, '/'),
            2 => path.push_str("//a"),
            3 => path.push_str("/.."),
            4 => path.push('\\'),
            5 => path.push_str("/.meshagent-upload-1"),
            6 => path.insert_str(0, "./"),
            7 => path.push('\u{1}'),
            8 => path.replace_range(.., "."),
            _ => {}
        }
        path
    }

    /// A path that is usually valid in a grant, and sometimes invalid.
    fn entry(&mut self) -> String {
        loop {
            let path = self.path();
            let is_odd = path.contains(['\\', '\u{1}'])
                || ["//", "..", ".mesh"].iter().any(|part| path.contains(part));
            if !is_odd || self.one_in(40) {
                return path;
            }
        }
    }

    fn actions(&mut self) -> Vec<FileAction> {
        use FileAction::{Delete, List, Presign, Read, Write};
        let all = [List, Read, Write, Delete, Presign, List, Read];
        (0..self.below(4))
            .map(|_| all[self.below(all.len())])
            .collect()
    }

    fn rule(&mut self) -> FilePathRule {
        let path = self.entry();
        let excluded = (0..self.below(4)).map(|_| match self.below(3) {
            0 => self.entry(),
            1 => path.clone(),
            _ => format!("{path}/{}", self.entry()),
        });
        FilePathRule {
            excluded_paths: excluded.collect(),
            path,
            recursive: !self.one_in(3),
            actions: self.actions(),
        }
    }

    fn scope(&mut self) -> ApiScope {
        let many = if self.one_in(10) { 60 } else { 8 };
        let storage = (!self.one_in(20)).then(|| StorageGrant {
            paths: (!self.one_in(10)).then(|| {
                let count = self.below(many);
                let entries = (0..count).map(|_| StoragePathGrant {
                    path: self.entry(),
                    read_only: self.one_in(2),
                });
                entries.collect()
            }),
            files: self.one_in(2).then(|| FilesPolicy {
                paths: (0..self.below(many)).map(|_| self.rule()).collect(),
            }),
        });
        let sync = (!self.one_in(20)).then(|| SyncGrant {
            paths: (!self.one_in(10)).then(|| {
                let count = self.below(many);
                let entries = (0..count).map(|_| {
                    let mut path = self.path();
                    if self.one_in(2) {
                        path.push('*');
                    }
                    SyncPathGrant {
                        path,
                        read_only: self.one_in(2),
                    }
                });
                entries.collect()
            }),
        });
        ApiScope {
            sync,
            storage,
            ..ApiScope::default()
        }
    }
}

#[track_caller]
fn check(scope: &ApiScope, sight: &Sight, path: &str) -> [bool; 5] {
    let storage = |may: fn(&StorageGrant, &str) -> bool| {
        scope.storage.as_ref().is_some_and(|grant| may(grant, path))
    };
    let sync = |may: fn(&SyncGrant, &str) -> bool| {
        scope.sync.as_ref().is_some_and(|grant| may(grant, path))
    };
    let said = [
        storage(StorageGrant::can_list),
        storage(StorageGrant::can_read),
        storage(StorageGrant::can_list_directory),
        sync(SyncGrant::can_read),
        sync(SyncGrant::can_write),
    ];
    let seen = [
        sight.can_list(path),
        sight.can_read(path),
        sight.can_list_directory(path),
        sight.can_read_document(path),
        sight.can_write_document(path),
    ];
    assert_eq!(seen, said, "{path:?} in {scope:#?}");
    assert_eq!(sight.can_list_or_read(path), said[0] || said[1], "{path:?}");
    seen
}

#[test]
fn sight_agrees_with_grants() {
    let mut random = Random(20_261_129);
    let mut yes = [0_usize; 5];
    let mut asked = 0;
    for _ in 0..2_000 {
        let scope = random.scope();
        let sight = Sight::of(&scope);
        let mut paths: Vec<_> = (0..20).map(|_| random.path()).collect();
        let storage = scope.storage.iter();
        let storage = storage.flat_map(|grant| grant.paths.iter().flatten().map(|one| &one.path));
        let policy = scope
            .storage
            .iter()
            .filter_map(|grant| grant.files.as_ref());
        let rules = policy.flat_map(|policy| &policy.paths);
        let rules = rules.flat_map(|rule| std::iter::once(&rule.path).chain(&rule.excluded_paths));
        let sync = scope.sync.iter();
        let sync = sync.flat_map(|grant| grant.paths.iter().flatten().map(|one| &one.path));
        let named: Vec<_> = storage.chain(rules).chain(sync).cloned().collect();
        for path in named {
            // The path itself, and paths above, below and beside it.
            for (end, _) in path.match_indices('/') {
                paths.push(path[..end].to_owned());
            }
            paths.extend([
                format!("{path}/a"),
                format!("{path}a"),
                path.trim_end_matches('*').to_owned(),
                path,
            ]);
        }
        for path in paths {
            let seen = check(&scope, &sight, &path);
            asked += 1;
            for (count, seen) in yes.iter_mut().zip(seen) {
                *count += usize::from(seen);
            }
        }
    }
    // Both answers are frequent, for each question.
    for count in yes {
        assert!(
            asked / 10 < count && count < asked * 9 / 10,
            "{yes:?} of {asked}"
        );
    }
}

#[test]
fn invalid_or_too_many_entries_show_nothing() {
    let entries = |count: usize, bad: Option<&str>| {
        let path = |number| format!("d/{number}");
        let paths = (0..count).map(path).chain(bad.map(str::to_owned));
        let paths = paths.map(|path| StoragePathGrant {
            path,
            read_only: false,
        });
        ApiScope {
            storage: Some(StorageGrant {
                paths: Some(paths.collect()),
                files: None,
            }),
            ..ApiScope::default()
        }
    };
    for (scope, is_seen) in [
        (entries(1_000, None), true),
        (entries(1_001, None), false),
        (entries(3, Some("a//b")), false),
    ] {
        let sight = Sight::of(&scope);
        let list = check(&scope, &sight, "d/1");
        assert_eq!(list, [is_seen, is_seen, is_seen, false, false]);
        check(&scope, &sight, "d");
        check(&scope, &sight, "");
    }
}

#[test]
fn sight_is_no_larger_than_its_scope() {
    assert_eq!(Sight::of(&ApiScope::full()).bytes(), 0);
    let paths = (0..900).map(|number| StoragePathGrant {
        path: format!("folder/{number}"),
        read_only: false,
    });
    let scope = ApiScope {
        storage: Some(StorageGrant {
            paths: Some(paths.collect()),
            files: None,
        }),
        ..ApiScope::default()
    };
    let bytes = Sight::of(&scope).bytes();
    assert!((900 * 8..900 * 64).contains(&bytes), "{bytes}");
}
