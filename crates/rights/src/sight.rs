//! The visible paths of a scope, indexed for questions about many paths.
//!
//! A grant searches its entries for each question. This index answers with a few text comparisons,
//! independent of the number of entries. The answers are the same.
//!
//! An entry covers a path if one text is a prefix of the other: `a/b/` begins with `a/`. In sorted
//! order, texts with a common prefix are adjacent, so the longest entry that is a prefix of a path
//! is found from the path's position; shorter ones are prefixes of that entry. The combined effect
//! of all of them is computed once, for each entry.

use crate::file_policy::{FileAction, FilesPolicy, MAX_PATHS, is_canonical, request_path};
use crate::grant::ApiScope;
use crate::storage_grant::{StorageGrant, StoragePathGrant};
use crate::sync_grant::{SyncGrant, SyncPathGrant};

/// The visible paths of a scope.
///
/// It takes some tens of bytes per entry of the scope, plus the bytes of its path.
#[derive(Debug)]
pub struct Sight {
    files: Files,
    documents: Documents,
}

impl Sight {
    /// Builds the index of a scope.
    pub fn of(scope: &ApiScope) -> Self {
        Self {
            files: scope.storage.as_ref().map_or(Files::Nothing, Files::of),
            documents: scope
                .sync
                .as_ref()
                .map_or(Documents::Nothing, Documents::of),
        }
    }

    /// Like [`StorageGrant::can_list`]; false without such a grant.
    pub fn can_list(&self, path: &str) -> bool {
        self.files.at(path).is_some_and(|seen| seen.list)
    }

    /// Like [`StorageGrant::can_read`]; false without such a grant.
    pub fn can_read(&self, path: &str) -> bool {
        self.files.at(path).is_some_and(|seen| seen.read)
    }

    /// Whether [`can_list`](Self::can_list) or [`can_read`](Self::can_read) holds.
    pub fn can_list_or_read(&self, path: &str) -> bool {
        self.files
            .at(path)
            .is_some_and(|seen| seen.list || seen.read)
    }

    /// Like [`StorageGrant::can_list_directory`]; false without such a grant.
    pub fn can_list_directory(&self, path: &str) -> bool {
        self.files.can_list_directory(path)
    }

    /// Like [`SyncGrant::can_read`]; false without such a grant.
    pub fn can_read_document(&self, path: &str) -> bool {
        self.documents.read_only(path).is_some()
    }

    /// Like [`SyncGrant::can_write`]; false without such a grant.
    pub fn can_write_document(&self, path: &str) -> bool {
        self.documents.read_only(path) == Some(false)
    }

    /// The size of the index in bytes, without the struct itself.
    pub fn bytes(&self) -> usize {
        let files = match &self.files {
            Files::Nothing | Files::Everything => 0,
            Files::Some(nodes) => nodes.bytes(),
        };
        let documents = match &self.documents {
            Documents::Nothing | Documents::Everything => 0,
            Documents::Some { beginnings, exact } => beginnings.bytes() + exact.bytes(),
        };
        files + documents
    }
}

/// The visible files.
#[derive(Debug)]
enum Files {
    Nothing,
    Everything,
    Some(Beginnings<Place>),
}

/// The rights at an entry, and below it unless a longer entry applies.
#[derive(Clone, Copy, Debug, Default)]
struct Place {
    at: Seen,
    below: Seen,
    /// The first entry from here on, in sorted order, that makes its ancestors listable.
    next_shown: usize,
}

#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    list: bool,
    read: bool,
}

impl Files {
    fn of(grant: &StorageGrant) -> Self {
        match (&grant.files, &grant.paths) {
            (Some(policy), _) => Self::of_policy(policy),
            (None, None) => Self::Everything,
            (None, Some(paths)) => Self::of_paths(paths),
        }
    }

    /// Each entry makes its paths visible, regardless of earlier entries: read-only paths are
    /// visible, too.
    fn of_paths(grants: &[StoragePathGrant]) -> Self {
        let are_valid =
            grants.len() <= MAX_PATHS && grants.iter().all(|grant| is_canonical(grant.entry()));
        if !are_valid {
            return Self::Nothing;
        }
        let keys = grants.iter().map(|grant| (key(grant.entry()), ()));
        let all = Seen {
            list: true,
            read: true,
        };
        let mut next_shown = 0;
        Self::Some(Beginnings::new(keys.collect(), |step| {
            let place = Place {
                at: all,
                below: all,
                next_shown,
            };
            // Every entry does.
            next_shown += usize::from(matches!(step, Step::In(_)));
            place
        }))
    }

    fn of_policy(policy: &FilesPolicy) -> Self {
        let mut marks = Vec::new();
        for (number, rule) in policy.paths.iter().enumerate() {
            marks.push((key(&rule.path), Mark::Rule(number)));
            let excluded = rule.excluded_paths.iter();
            marks.extend(excluded.map(|path| (key(path), Mark::Excluded(number))));
        }
        let mut walk = Walk::new(policy);
        let mut nodes = Beginnings::new(marks, |step| walk.step(&step));
        let mut next = usize::MAX;
        for (number, is_shown) in walk.shown.iter().enumerate().rev() {
            if *is_shown {
                next = number;
            }
            nodes.nodes[number].value.next_shown = next;
        }
        Self::Some(nodes)
    }

    fn at(&self, path: &str) -> Option<Seen> {
        let path = request_path(path);
        if matches!(self, Self::Nothing) || !is_canonical(path) {
            return None;
        }
        match self {
            Self::Nothing => None,
            Self::Everything => Some(Seen {
                list: true,
                read: true,
            }),
            Self::Some(nodes) => nodes.seen(&key(path)),
        }
    }

    fn can_list_directory(&self, path: &str) -> bool {
        let path = request_path(path);
        match self {
            Self::Nothing => false,
            _ if !is_canonical(path) => false,
            Self::Everything => true,
            Self::Some(nodes) => {
                let key = key(path);
                if nodes.seen(&key).is_some_and(|seen| seen.list) {
                    return true;
                }
                // If the folder itself is an entry, it is not listable, or the check above
                // had succeeded.
                let from = nodes.place(&key);
                let next = nodes.nodes.get(from).map(|node| node.value.next_shown);
                next.is_some_and(|next| {
                    next < nodes.nodes.len() && nodes.text_of(next).starts_with(&*key)
                })
            }
        }
    }
}

impl Beginnings<Place> {
    fn seen(&self, key: &str) -> Option<Seen> {
        let node = self.longest(key)?;
        let place = self.nodes[node].value;
        Some(if self.text_of(node).len() == key.len() {
            place.at
        } else {
            place.below
        })
    }
}

/// The effect of a path in a policy.
#[derive(Clone, Copy, Debug)]
enum Mark {
    /// The rule with this number begins to apply.
    Rule(usize),
    /// The rule with this number ceases to apply.
    Excluded(usize),
}

/// The rules of a policy that apply at the current position of a walk through all its paths, in
/// sorted order.
#[derive(Debug)]
struct Walk<'a> {
    policy: &'a FilesPolicy,
    rules: Vec<Covering>,
    /// The numbers of rules that permit listing, and reading, below the position.
    list: usize,
    read: usize,
    /// For each entry so far, whether a rule permits to list the entry itself.
    shown: Vec<bool>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Covering {
    covers: bool,
    /// The number of excluded paths that cover the position.
    excluded: usize,
}

impl<'a> Walk<'a> {
    fn new(policy: &'a FilesPolicy) -> Self {
        Self {
            policy,
            rules: vec![Covering::default(); policy.paths.len()],
            list: 0,
            read: 0,
            shown: Vec::new(),
        }
    }

    fn step(&mut self, step: &Step<'_, Mark>) -> Place {
        match step {
            Step::In(marks) => self.enter(marks),
            Step::Out(marks) => {
                for mark in *marks {
                    match *mark {
                        Mark::Rule(number) => self.change(number, |rule| rule.covers = false),
                        Mark::Excluded(number) => self.change(number, |rule| rule.excluded -= 1),
                    }
                }
                Place::default()
            }
        }
    }

    fn enter(&mut self, marks: &[Mark]) -> Place {
        for mark in marks {
            match *mark {
                Mark::Rule(number) if self.policy.paths[number].recursive => {
                    self.change(number, |rule| rule.covers = true);
                }
                Mark::Rule(_) => {}
                Mark::Excluded(number) => self.change(number, |rule| rule.excluded += 1),
            }
        }
        let below = Seen {
            list: self.list > 0,
            read: self.read > 0,
        };
        let mut at = below;
        let mut is_shown = false;
        for mark in marks {
            let Mark::Rule(number) = *mark else { continue };
            let rule = &self.policy.paths[number];
            if self.rules[number].excluded == 0 {
                at.list |= rule.actions.contains(&FileAction::List);
                at.read |= rule.actions.contains(&FileAction::Read);
                is_shown |= rule.actions.contains(&FileAction::List);
            }
        }
        self.shown.push(is_shown);
        Place {
            at,
            below,
            next_shown: 0,
        }
    }

    /// Changes how a rule applies at the position, and updates the numbers.
    fn change(&mut self, number: usize, change: impl Fn(&mut Covering)) {
        let rule = &mut self.rules[number];
        let before = rule.covers && rule.excluded == 0;
        change(rule);
        let after = rule.covers && rule.excluded == 0;
        let actions = &self.policy.paths[number].actions;
        for (count, action) in [
            (&mut self.list, FileAction::List),
            (&mut self.read, FileAction::Read),
        ] {
            if actions.contains(&action) {
                *count += usize::from(after);
                *count -= usize::from(before);
            }
        }
    }
}

/// The visible documents.
#[derive(Debug)]
enum Documents {
    Nothing,
    Everything,
    Some {
        beginnings: Beginnings<First>,
        exact: Beginnings<First>,
    },
}

/// The first matching entry.
#[derive(Clone, Copy, Debug)]
struct First {
    position: usize,
    read_only: bool,
}

impl Documents {
    fn of(grant: &SyncGrant) -> Self {
        let Some(paths) = &grant.paths else {
            return Self::Everything;
        };
        let (mut beginnings, mut exact) = (Vec::new(), Vec::new());
        for (position, SyncPathGrant { path, read_only }) in paths.iter().enumerate() {
            let first = First {
                position,
                read_only: *read_only,
            };
            match path.strip_suffix('*') {
                Some(beginning) => beginnings.push((beginning.to_owned(), first)),
                None => exact.push((path.clone(), first)),
            }
        }
        Self::Some {
            beginnings: Beginnings::new(beginnings, firsts(true)),
            exact: Beginnings::new(exact, firsts(false)),
        }
    }

    /// Whether the decisive entry is read-only; `None` if none matches.
    fn read_only(&self, path: &str) -> Option<bool> {
        match self {
            Self::Nothing => None,
            Self::Everything => Some(false),
            Self::Some { beginnings, exact } => {
                let covering = beginnings.longest(path);
                let covering = covering.map(|node| beginnings.nodes[node].value);
                let equal = exact.equal(path).map(|node| exact.nodes[node].value);
                let first = covering.into_iter().chain(equal);
                let first = first.min_by_key(|first| first.position);
                first.map(|first| first.read_only)
            }
        }
    }
}

/// The first of the entries at each text; with `inherits`, of all entries that are its prefixes.
fn firsts(inherits: bool) -> impl FnMut(Step<'_, First>) -> First {
    let nothing = First {
        position: usize::MAX,
        read_only: true,
    };
    let mut above: Vec<First> = Vec::new();
    move |step| match step {
        Step::In(entries) => {
            let before = above.last().copied().filter(|_| inherits);
            let all = before.into_iter().chain(entries.iter().copied());
            let first = all.min_by_key(|first| first.position).unwrap_or(nothing);
            above.push(first);
            first
        }
        Step::Out(_) => above.pop().unwrap_or(nothing),
    }
}

/// Sorted distinct texts, each with the longest other one that is its prefix.
#[derive(Debug)]
struct Beginnings<T> {
    /// All texts, concatenated.
    text: Box<str>,
    nodes: Box<[Node<T>]>,
}

#[derive(Debug)]
struct Node<T> {
    /// The end of its text, which begins at the end of the previous one.
    end: usize,
    /// The longest other text that is its prefix; `usize::MAX` if none.
    parent: usize,
    value: T,
}

/// A step of a walk through all texts in sorted order, prefixes first.
#[derive(Debug)]
enum Step<'a, M> {
    /// Enters a text with these marks; the result becomes the text's value.
    In(&'a [M]),
    /// Leaves a text and all that begin with it.
    Out(&'a [M]),
}

impl<T> Beginnings<T> {
    fn new<M>(mut entries: Vec<(String, M)>, mut value: impl FnMut(Step<'_, M>) -> T) -> Self {
        entries.sort_by(|(one, _), (other, _)| one.cmp(other));
        let (keys, marks): (Vec<String>, Vec<M>) = entries.into_iter().unzip();
        let mut text = String::new();
        let mut nodes: Vec<Node<T>> = Vec::new();
        // The texts that are prefixes of the current one: number, text, and marks.
        let mut open: Vec<(usize, &str, &[M])> = Vec::new();
        let mut from = 0;
        for equal in keys.chunk_by(|one, other| one == other) {
            let Some(key) = equal.first() else { continue };
            let said = &marks[from..from + equal.len()];
            from += equal.len();
            while let Some((_, _, left)) = open.pop_if(|(_, above, _)| !key.starts_with(*above)) {
                value(Step::Out(left));
            }
            text.push_str(key);
            nodes.push(Node {
                end: text.len(),
                parent: open.last().map_or(usize::MAX, |(number, ..)| *number),
                value: value(Step::In(said)),
            });
            open.push((nodes.len() - 1, key, said));
        }
        Self {
            text: text.into(),
            nodes: nodes.into(),
        }
    }

    fn text_of(&self, node: usize) -> &str {
        let before = node
            .checked_sub(1)
            .map_or(0, |before| self.nodes[before].end);
        &self.text[before..self.nodes[node].end]
    }

    /// The number of texts that sort before a text.
    fn place(&self, text: &str) -> usize {
        let (mut from, mut to) = (0, self.nodes.len());
        while from < to {
            let middle = from.midpoint(to);
            if self.text_of(middle) < text {
                from = middle + 1;
            } else {
                to = middle;
            }
        }
        from
    }

    fn equal(&self, text: &str) -> Option<usize> {
        let place = self.place(text);
        (place < self.nodes.len() && self.text_of(place) == text).then_some(place)
    }

    /// The longest text that is a prefix of this one.
    fn longest(&self, text: &str) -> Option<usize> {
        let place = self.place(text);
        if place < self.nodes.len() && self.text_of(place) == text {
            return Some(place);
        }
        // The text before it has all of its prefixes.
        let mut node = place.checked_sub(1)?;
        let both = self.text_of(node).bytes().zip(text.bytes());
        let common = both.take_while(|(one, other)| one == other).count();
        while self.text_of(node).len() > common {
            node = self.nodes[node].parent;
            if node == usize::MAX {
                return None;
            }
        }
        Some(node)
    }

    fn bytes(&self) -> usize {
        self.text.len() + size_of_val(&*self.nodes)
    }
}

/// The sort key of a path: keys of covering paths are its prefixes, and no others are.
fn key(path: &str) -> String {
    if path.is_empty() {
        String::new()
    } else {
        format!("{path}/")
    }
}
