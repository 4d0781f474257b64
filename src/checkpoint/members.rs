//! One file to which all members of a run write, each its own bytes.
//!
//! A run of two members writes the model `w` of four elements and AdamW's state, of which member 0
//! keeps elements 0..2 and member 1 elements 2..4:
//!
//! ```text
//!            header   opt.0.exp_avg   opt.1.exp_avg_sq   w        opt.snapshot
//! member 0   writes   a a . .         a a . .            a a . .  writes
//! member 1            . . b b         . . b b            . . b b
//! ```
//!
//! 1. Each looks at what it has, and they agree that nothing is wrong and that they write the same
//!    tensors.
//! 2. A number of what each is about to write stands in the header, so that who reads the file
//!    finds the member of whom bytes did not arrive.
//! 3. Member 0 makes a file under another name beside the old one, as long as it will be, and
//!    writes the header and what is no member's; its name goes to the others, who open it and write
//!    theirs. All synchronise it.
//! 4. When all say that they have, member 0 renames it. Whatever fails before leaves the old file.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::atomic::{self, Replacement};
use super::extras::{ExtraPart, Extras};
use super::file_contents::FileContents;
use super::header::Header;
use super::metadata::{SHARDS, json};
use super::open::Checkpoint;
use super::optimizer::{SNAPSHOT, state_name};
use super::save::{push_extras_but_state, push_others, push_vector};
use super::state::{StateTensor, blocks_of};
use crate::communicator::{Communicator, check_together, gather_numbers};
use crate::error::{Error, Result};
use crate::layout::Layout;
use crate::optim::intersection;

/// Writes a flat vector that all members of a run have, and what stands beside it, to one file: as
/// [`save_flat`](super::save_flat) does, but each member writes its own bytes, of the model and of
/// the state of an optimiser [of a range](crate::optim::Optimizer::of_range). All members call it,
/// with one path in a file system that all of them see. The file is an ordinary one:
/// [`open`](super::open) reads it, and
/// [`resume`](Checkpoint::resume) takes the optimiser up as that of one member.
///
/// What is no member's own (frozen leaves, vectors, trees and metadata of `extras`) is written by
/// member 0, as it has them. The file is replaced as a whole: it is written beside the old one by
/// all, and renamed when all have synchronised it.
///
/// # Errors
/// On all members, `is_member` where another one is the reason, and the old file stays:
/// what [`save_flat`](super::save_flat) refuses; `is_io`, a member that cannot write;
/// `is_argument`, optimisers whose ranges are not the flat vector together, by rank.
///
/// ```
/// use flatleaf::checkpoint::{self, Extras};
/// use flatleaf::optim::{AdamW, Optimizer};
/// use flatleaf::{destructure, tree, Communicator, Result, Threads};
/// # let path = std::env::temp_dir().join(format!("flatleaf-save-flat-with-{}", std::process::id()));
///
/// let ends = Threads::run(2, |member| -> Result<()> {
///     let (mut flat, layout) = destructure(&tree!({ "w": [1.0, 2.0], "b": [3.0] }))?;
///     let shard = layout.shards(2)[member.rank()].clone();
///     let mut optimizer = Optimizer::of_range(AdamW::default(), &layout, shard)?;
///     let mut grad = layout.gather_grad(&tree!({ "w": [1.0, -1.0], "b": [2.0] }))?;
///     optimizer.step_with(member, &mut flat, &mut grad)?;
///     let extras = Extras::new().optimizer("opt", &optimizer);
///     checkpoint::save_flat_with(member, &path, &layout, &flat, &extras)
/// });
/// ends.into_iter().collect::<Result<()>>()?;
///
/// let layout = flatleaf::Layout::of(&tree!({ "w": [1.0, 2.0], "b": [3.0] }))?;
/// let file = checkpoint::open(&path)?.part("opt")?;
/// let alone: Optimizer<AdamW> = file.resume(&layout)?; // or `resume_range`, on any number of members
/// assert_eq!(alone.step_count("w"), Some(1));
/// # std::fs::remove_file(path)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn save_flat_with(
    communicator: &mut impl Communicator,
    path: impl AsRef<Path>,
    layout: &Layout,
    flat: &[f32],
    extras: &Extras<'_>,
) -> Result<()> {
    let states = States::of(extras);
    let checked = layout.check_len("the flat vector", flat.len());
    let checked = checked.and_then(|()| states.check(layout));
    communicator.agree(checked)?;
    communicator.check_layout(layout)?;
    let ranges = states.ranges(communicator, layout)?;
    let is_written = states.written_somewhere(communicator)?;
    let own = ranges[communicator.rank()].clone();

    let built = build(layout, flat, extras, (&states, &is_written, &own));
    let (mut contents, shares) = communicator.agree(built)?;
    let sum = sum_of(shares.iter().map(|share| &*share.bytes));
    let sums = gather_numbers(communicator, sum)?;
    let mut members = Vec::with_capacity(ranges.len());
    for (range, sum) in ranges.iter().zip(&sums) {
        members.push((range.start, range.end, format!("{sum:016x}")));
    }
    let entry = Shards {
        vectors: states.names(&is_written),
        members,
    };
    let inserted = contents.insert_entry(SHARDS, json(&entry));
    let laid_out = inserted.and_then(|()| contents.header());
    let header = communicator.agree(laid_out)?;
    write(communicator, path.as_ref(), &header, &contents, &shares)
}

/// The state vectors of all optimisers that are to be written.
struct States<'e> {
    tensors: Vec<Named<'e>>,
}

/// A state vector with its name in the file.
type Named<'e> = (String, &'e StateTensor<'e>);

impl<'e> States<'e> {
    fn of(extras: &'e Extras<'_>) -> Self {
        let mut all = Vec::new();
        for (part, extra) in &extras.parts {
            let ExtraPart::State { tensors, .. } = extra else {
                continue;
            };
            for tensor in tensors {
                let name = state_name(part, &tensor.name);
                all.push((name, tensor));
            }
        }
        States { tensors: all }
    }

    /// Those with an element for each of the flat vector.
    fn vectors(&self) -> impl Iterator<Item = &Named<'e>> {
        let tensors = self.tensors.iter();
        tensors.filter(|(_, tensor)| !tensor.is_scales)
    }

    /// # Errors
    /// State of another layout, or of two ranges.
    fn check(&self, layout: &Layout) -> Result<()> {
        let own = self.range(layout);
        for (name, vector) in self.vectors() {
            if vector.len != layout.len() {
                let error = Error::length("the state", layout.len(), vector.len);
                return Err(error.at(name));
            }
            if vector.range != own && !vector.is_whole() {
                let expected = format!("the state of one range, {own:?}");
                let found = format!("{:?}", vector.range);
                return Err(Error::argument(&expected, found).at(name));
            }
        }
        Ok(())
    }

    /// The range that is kept here; the whole vector if all is.
    fn range(&self, layout: &Layout) -> Range<usize> {
        let mut vectors = self.vectors();
        let cut = vectors.find(|(_, vector)| !vector.is_whole());
        match cut {
            Some((_, vector)) => vector.range.clone(),
            None => 0..layout.len(),
        }
    }

    /// What each member writes of the model and of the state.
    ///
    /// # Errors
    /// Ranges that are not the flat vector together.
    fn ranges<C: Communicator>(
        &self,
        communicator: &mut C,
        layout: &Layout,
    ) -> Result<Vec<Range<usize>>> {
        // Each fills in its own three numbers: the sum over all members is what each has said.
        let own = self.range(layout);
        let count = self.tensors.len();
        let mut told = vec![0.0; 3 * communicator.size()];
        let place = &mut told[3 * communicator.rank()..][..3];
        place.copy_from_slice(&[own.start as f64, own.end as f64, count as f64]);
        communicator.all_reduce(&mut told)?;

        let (members, _) = told.as_chunks::<3>();
        let [_, _, first_count] = members[0];
        let mut ranges = Vec::with_capacity(members.len());
        for (rank, &[start, end, count]) in members.iter().enumerate() {
            if count != first_count {
                let found = format!("it writes {count} state vectors, member 0 {first_count}");
                return Err(Error::member(rank, found));
            }
            ranges.push(start as usize..end as usize);
        }
        // Where all keep all, they share the work of writing it.
        let whole = 0..layout.len();
        if ranges.iter().all(|range| *range == whole) {
            return Ok(layout.shards(communicator.size()));
        }
        check_together(&ranges, layout.len())?;
        Ok(ranges)
    }

    /// Which vectors are not all zeros on some member.
    fn written_somewhere<C>(&self, communicator: &mut C) -> Result<Vec<bool>>
    where
        C: Communicator,
    {
        // A sum of ones counts the members that have elements of the vector.
        let mut members = Vec::with_capacity(self.tensors.len());
        for (_, tensor) in &self.tensors {
            let has_elements = tensor.bytes.is_some();
            members.push(if has_elements { 1.0 } else { 0.0 });
        }
        communicator.all_reduce(&mut members)?;
        let is_written = members.iter().map(|members| *members > 0.0);
        Ok(is_written.collect())
    }

    /// Those that are written, of which `is_written` has one flag each.
    fn written(&self, is_written: &[bool]) -> impl Iterator<Item = &Named<'e>> {
        let all = self.tensors.iter().zip(is_written);
        let written = all.filter(|(_, is_written)| **is_written);
        written.map(|(named, _)| named)
    }

    fn names(&self, is_written: &[bool]) -> Vec<String> {
        let written = self.written(is_written);
        written.map(|(name, _)| name.clone()).collect()
    }
}

impl StateTensor<'_> {
    fn is_whole(&self) -> bool {
        self.range == (0..self.len)
    }

    fn element_size(&self) -> usize {
        self.dtype.bitsize() / 8
    }

    /// Which of its elements are those of a range of the flat vector.
    fn elements_of(&self, layout: &Layout, range: &Range<usize>) -> Range<usize> {
        match self.is_scales {
            true => blocks_of(layout, range),
            false => range.clone(),
        }
    }

    /// Some elements, which are kept here.
    fn bytes_of(&self, elements: &Range<usize>) -> Cow<'_, [u8]> {
        let size = self.element_size();
        let len = size * elements.len();
        match &self.bytes {
            Some(kept) => {
                let start = size * (elements.start - self.range.start);
                Cow::Borrowed(&kept[start..][..len])
            }
            None => Cow::Owned(vec![0; len]),
        }
    }
}

/// What stands in the header of the members that wrote the file.
#[derive(Serialize, Deserialize)]
struct Shards {
    /// The names of the state vectors; the leaves of the model have a share each too.
    vectors: Vec<String>,
    /// By rank: the range, and a number of what was written of it.
    members: Vec<(usize, usize, String)>,
}

/// Some bytes of a tensor.
struct Share<'s> {
    tensor: String,
    /// Where in the tensor's bytes they begin.
    start: usize,
    bytes: Cow<'s, [u8]>,
}

/// What is in the file, and this member's share of it.
fn build<'s>(
    layout: &Layout,
    flat: &'s [f32],
    extras: &'s Extras<'_>,
    (states, is_written, own): (&'s States<'_>, &[bool], &Range<usize>),
) -> Result<(FileContents<'s>, Vec<Share<'s>>)> {
    let mut contents = FileContents::default();
    let mut shares: Vec<Share<'s>> = Vec::new();
    push_vector(&mut contents, "", layout, flat)?;
    for leaf in layout.leaves() {
        let range = leaf.range();
        let within = intersection(own, &range);
        let start = size_of::<f32>() * (within.start - range.start);
        let bytes = bytemuck::cast_slice(&flat[within]);
        shares.push(Share {
            tensor: leaf.path().to_owned(),
            start,
            bytes: Cow::Borrowed(bytes),
        });
    }
    push_others(&mut contents, layout, &extras.others)?;
    push_extras_but_state(&mut contents, layout, extras)?;
    for (part, extra) in &extras.parts {
        if let ExtraPart::State { rest, .. } = extra {
            let name = state_name(part, SNAPSHOT);
            let shape = vec![rest.len()];
            let bytes = rest.as_slice().into();
            contents.push_tensor(name, safetensors::Dtype::U8, shape, bytes)?;
        }
    }
    for (name, tensor) in states.written(is_written) {
        // Its place in the file only: each member writes its own elements there.
        let shape = vec![tensor.len];
        let nothing: &[u8] = &[];
        contents.push_tensor(name.clone(), tensor.dtype, shape, nothing.into())?;
        let own = tensor.elements_of(layout, own);
        shares.push(Share {
            tensor: name.clone(),
            start: tensor.element_size() * own.start,
            bytes: tensor.bytes_of(&own),
        });
    }
    Ok((contents, shares))
}

/// A number of bytes that tells most others from them.
fn sum_of<'b>(shares: impl Iterator<Item = &'b [u8]>) -> u64 {
    const ODD: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut sum = 0_u64;
    let mut number = |number: u64| sum = (sum ^ number).wrapping_mul(ODD).rotate_left(29);
    for bytes in shares {
        let (words, rest) = bytes.as_chunks::<8>();
        number(bytes.len() as u64);
        for word in words {
            number(u64::from_le_bytes(*word));
        }
        rest.iter().for_each(|byte| number(u64::from(*byte)));
    }
    sum
}

fn write<C: Communicator>(
    communicator: &mut C,
    path: &Path,
    header: &Header,
    contents: &FileContents<'_>,
    shares: &[Share<'_>],
) -> Result<()> {
    let start = communicator.agree(header.encode())?;
    // Another header has the data at other places, and would tear the file.
    let own = sum_of(std::iter::once(&start[..]));
    let headers = gather_numbers(communicator, own)?;
    let differs = |other: &u64| *other != headers[0];
    if let Some(rank) = headers.iter().position(differs) {
        let found = "it has other names, shapes or metadata to write than member 0";
        return Err(Error::member(rank, found));
    }
    let begun = match communicator.rank() {
        0 => {
            let replacement = begin(path, &start, header, contents, shares);
            replacement.map(Some)
        }
        _ => Ok(None),
    };
    // Whatever ends this function before it is finished removes the new file.
    let begun = communicator.agree(begun)?;
    // In numbers, since that is what members exchange.
    let mut name = begun.as_ref().map_or([0.0; 2], Replacement::name);
    communicator.all_reduce(&mut name)?;
    let written = write_shares(path, name, start.len(), header, shares);
    communicator.agree(written)?;
    let replaced = begun.map_or(Ok(()), Replacement::finish);
    communicator.agree(replaced)
}

/// Makes the new file, as long as it will be, with all that is no member's own.
fn begin(
    path: &Path,
    start: &[u8],
    header: &Header,
    contents: &FileContents<'_>,
    shares: &[Share<'_>],
) -> Result<Replacement> {
    let replacement = Replacement::begin(path)?;
    let written = write_rest(replacement.file(), start, header, contents, shares);
    written.map_err(|error| atomic::failed(path, &error))?;
    Ok(replacement)
}

fn write_rest(
    file: &File,
    start: &[u8],
    header: &Header,
    contents: &FileContents<'_>,
    shares: &[Share<'_>],
) -> io::Result<()> {
    let names = shares.iter().map(|share| &*share.tensor);
    let shared: BTreeSet<&str> = names.collect();
    file.set_len((start.len() + header.data_len()) as u64)?;
    write_at(file, 0, start)?;
    for tensor in &header.tensors {
        if !shared.contains(tensor.name.as_str()) {
            let at = start.len() + tensor.bytes.start;
            write_at(file, at, contents.bytes(&tensor.name))?;
        }
    }
    file.sync_all()
}

fn write_shares(
    path: &Path,
    name: [f64; 2],
    start: usize,
    header: &Header,
    shares: &[Share<'_>],
) -> Result<()> {
    let file = atomic::open_new(path, name)?;
    let write = || {
        for share in shares {
            let Some(index) = header.find(&share.tensor) else {
                continue;
            };
            if share.bytes.is_empty() {
                continue;
            }
            let tensor = &header.tensors[index];
            let at = start + tensor.bytes.start + share.start;
            write_at(&file, at, &share.bytes)?;
        }
        file.sync_all()
    };
    write().map_err(|error| atomic::failed(path, &error))
}

fn write_at(mut file: &File, at: usize, bytes: &[u8]) -> io::Result<()> {
    file.seek(SeekFrom::Start(at as u64))?;
    file.write_all(bytes)
}

impl Checkpoint {
    /// Checks that what the members of a run wrote with [`save_flat_with`] is in the file as they
    /// wrote it, of a flat vector of this layout. All members of the run that goes on call it,
    /// however many they are: each reads a part of the file, and all get one answer.
    ///
    /// # Errors
    /// On all members, `is_member` where another one found it: `is_invalid_file`, a share that is
    /// not what its member wrote, with the member's rank and its elements; or a file that
    /// [`save_flat_with`] did not write. `is_missing`: a tensor of a share is not there.
    ///
    /// ```
    /// use flatleaf::checkpoint::{self, Extras};
    /// use flatleaf::{destructure, tree, Alone};
    /// # let path = std::env::temp_dir().join(format!("flatleaf-check-shards-{}", std::process::id()));
    ///
    /// let (flat, layout) = destructure(&tree!({ "w": [1.0, 2.0] }))?;
    /// checkpoint::save_flat_with(&mut Alone, &path, &layout, &flat, &Extras::new())?;
    /// checkpoint::open(&path)?.check_shards(&mut Alone, &layout)?;
    /// # std::fs::remove_file(path)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn check_shards(
        &self,
        communicator: &mut impl Communicator,
        layout: &Layout,
    ) -> Result<()> {
        let members = (communicator.rank(), communicator.size());
        let checked = self.check_shards_of(members, layout);
        communicator.agree(checked)
    }

    /// Checks every so many shares, from the first that is this member's to check.
    fn check_shards_of(&self, (first, step): (usize, usize), layout: &Layout) -> Result<()> {
        let none = || {
            let expected = "a file that members of a run wrote, with `save_flat_with`";
            Error::invalid_file(expected, "no list of their shares")
        };
        let text = self.metadata().get(SHARDS).ok_or_else(none)?;
        let read = serde_json::from_str(text);
        let shards: Shards = read.map_err(|error| {
            let found = error.to_string();
            Error::invalid_file("a list of shares", found).at(SHARDS)
        })?;
        let members = shards.members.iter().enumerate();
        for (rank, (start, end, sum)) in members.skip(first).step_by(step) {
            let own = *start..*end;
            let pieces = self.shares_of(layout, &own, &shards.vectors)?;
            let found = format!("{:016x}", sum_of(pieces.into_iter()));
            if found != *sum {
                let expected =
                    format!("the share of member {rank}, elements {own:?}, as it was written");
                return Err(Error::invalid_file(&expected, "other bytes: it is torn"));
            }
        }
        Ok(())
    }

    /// What the member with a range has written, in the order in which it did.
    fn shares_of(
        &self,
        layout: &Layout,
        own: &Range<usize>,
        vectors: &[String],
    ) -> Result<Vec<&[u8]>> {
        let mut pieces = Vec::new();
        for leaf in layout.leaves() {
            let range = leaf.range();
            let within = intersection(own, &range);
            let elements = within.start - range.start..within.end - range.start;
            pieces.push(self.share(leaf.path(), elements)?);
        }
        for name in vectors {
            let elements = self.elements_of_share(name, layout, own.clone());
            pieces.push(self.share(name, elements)?);
        }
        Ok(pieces)
    }

    /// Which elements of a state's tensor are those of a range: of one that is not as long as the
    /// flat vector, and has scales, those of its blocks.
    fn elements_of_share(&self, name: &str, layout: &Layout, range: Range<usize>) -> Range<usize> {
        let tensor = self.tensor(name);
        let len = tensor.map(|tensor| tensor.shape().iter().product::<usize>());
        match len == Some(layout.len()) {
            true => range,
            false => blocks_of(layout, &range),
        }
    }

    fn share(&self, name: &str, elements: Range<usize>) -> Result<&[u8]> {
        let Some(tensor) = self.tensor(name) else {
            let names = vec![name.to_owned()];
            return Err(Error::missing_tensors(names));
        };
        let bytes = self.bytes(name)?;
        let len: usize = tensor.shape().iter().product();
        let size = bytes.len().checked_div(len).unwrap_or(0);
        // The list of shares is text of the file, and may name any elements.
        let start = elements.start.saturating_mul(size);
        let end = elements.end.saturating_mul(size);
        let Some(share) = bytes.get(start..end) else {
            let expected = format!("a tensor with the elements {elements:?} of a share");
            let found = format!("{} bytes", bytes.len());
            return Err(Error::invalid_file(&expected, found).at(name));
        };
        Ok(share)
    }
}
