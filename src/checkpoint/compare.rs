//! How far two files are from each other, tensor by tensor.

use std::path::Path;

use super::stream::Streams;
use super::tensor::Tensor;
use crate::error::Result;

/// What differs between two files, tensor by tensor, and what could not be compared. Made by
/// [`compare`]; a tensor of the first file is in exactly one of the lists.
///
/// ```
/// use flatleaf::{checkpoint, tree};
/// # let folder = std::env::temp_dir().join(format!("flatleaf-comparison-{}", std::process::id()));
/// # std::fs::create_dir_all(&folder)?;
/// # let [a, b] = ["a", "b"].map(|name| folder.join(name));
///
/// checkpoint::save(&a, &tree!({ "w": [1.0], "old": [0.0], "b": [0.0] }))?;
/// checkpoint::save(&b, &tree!({ "w": [1.0], "new": [0.0], "b": [0.0, 0.0] }))?;
/// let comparison = checkpoint::compare(&a, &b)?;
/// assert_eq!((&*comparison.tensors[0].name, comparison.tensors.len()), ("w", 1));
/// assert_eq!([comparison.only_in_first, comparison.only_in_second, comparison.other_shapes], [["old"], ["new"], ["b"]]);
/// # std::fs::remove_dir_all(folder)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Comparison {
    /// The tensors that both have in one shape and as numbers, in the order of the first file; also
    /// those that do not differ at all.
    pub tensors: Vec<Difference>,
    /// The names of tensors that only the first has: the second has nothing under their names, nor
    /// under any alias that either file has for them.
    pub only_in_first: Vec<String>,
    /// The names of tensors that only the second has: the first has nothing under their names, nor
    /// under any alias that either file has for them.
    pub only_in_second: Vec<String>,
    /// The names of tensors that both files have and that differ in shape, as the first file names
    /// them. Their elements are not looked at.
    pub other_shapes: Vec<String>,
    /// The names of tensors that have one shape and a type, in either file, of which nothing here
    /// knows the numbers: floats of 8 bits and less. Whether they differ is not
    /// known.
    pub not_compared: Vec<String>,
}

/// What differs between two tensors of one name and shape, as three norms and one maximum. Types
/// may differ: floats, integers and booleans are compared as `f64`.
///
/// ```
/// use flatleaf::{checkpoint, tree};
/// # let folder = std::env::temp_dir().join(format!("flatleaf-difference-{}", std::process::id()));
/// # std::fs::create_dir_all(&folder)?;
/// # let [a, b] = ["a", "b"].map(|name| folder.join(name));
///
/// checkpoint::save(&a, &tree!({ "w": [3.0, 4.0] }))?;
/// checkpoint::save(&b, &tree!({ "w": [0.0, 0.0] }))?;
/// let difference = &checkpoint::compare(&a, &b)?.tensors[0];
/// assert_eq!((difference.distance, difference.max_abs), (5.0, 4.0));
/// assert_eq!((difference.norm_first, difference.norm_second), (5.0, 0.0));
/// # std::fs::remove_dir_all(folder)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Difference {
    /// Its name in the first file. The second may have it under another, where an alias of either
    /// file leads from the one to the other.
    pub name: String,
    /// The number of elements, which is one for both files: tensors of different shapes are listed
    /// elsewhere.
    pub len: usize,
    /// The L2 norm of the difference: the root of the sum of squares of first minus second, in
    /// `f64`. NaN if an element is; infinite elements that are equal make NaN too.
    pub distance: f64,
    /// The L2 norm in the first file, over all elements of the tensor, to tell a distance that is
    /// large from one that is not.
    pub norm_first: f64,
    /// The L2 norm in the second file, over all elements of the tensor, which shows a tensor that
    /// grew or vanished.
    pub norm_second: f64,
    /// The largest absolute difference of two elements; NaN if a difference is.
    pub max_abs: f64,
}

impl Comparison {
    /// The L2 norm of the difference of all tensors that were compared. Says nothing of those that
    /// only one file has, or has in another shape.
    ///
    /// ```
    /// use flatleaf::checkpoint::{Comparison, Difference};
    ///
    /// let tensors = [3.0, 4.0].map(|distance| Difference { distance, ..Default::default() });
    /// assert_eq!(Comparison { tensors: tensors.into(), ..Default::default() }.distance(), 5.0);
    /// ```
    pub fn distance(&self) -> f64 {
        norm(self.tensors.iter().map(|tensor| tensor.distance))
    }

    /// The L2 norm of all tensors that were compared, in the first file and in the second: what
    /// [`distance`](Comparison::distance) is measured against.
    ///
    /// ```
    /// use flatleaf::{checkpoint, tree};
    /// # let path = std::env::temp_dir().join(format!("flatleaf-norms-{}", std::process::id()));
    ///
    /// checkpoint::save(&path, &tree!({ "w": [3.0], "b": [4.0] }))?;
    /// let comparison = checkpoint::compare(&path, &path)?;
    /// assert_eq!((comparison.distance(), comparison.norms()), (0.0, (5.0, 5.0)));
    /// # std::fs::remove_file(path)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn norms(&self) -> (f64, f64) {
        (
            norm(self.tensors.iter().map(|tensor| tensor.norm_first)),
            norm(self.tensors.iter().map(|tensor| tensor.norm_second)),
        )
    }
}

fn norm(norms: impl Iterator<Item = f64> + Clone) -> f64 {
    let mut squares = SumOfSquares::default();
    squares.add(norms);
    squares.root()
}

/// Compares two files tensor by tensor, by name and through the aliases of either: distances,
/// norms, what only one of them has. Types may differ. What was written beside the models is passed
/// by. One pass over each file in constant memory. Numbers come out right whatever their size: the
/// norm of one element of 1e200 is 1e200.
///
/// # Errors
/// [`is_io`](crate::Error::is_io): a file cannot be read.
/// [`is_invalid_file`](crate::Error::is_invalid_file): it is no safetensors file.
///
/// ```
/// use flatleaf::{checkpoint, tree};
/// # let folder = std::env::temp_dir().join(format!("flatleaf-compare-{}", std::process::id()));
/// # std::fs::create_dir_all(&folder)?;
/// # let [a, b] = ["a", "b"].map(|name| folder.join(name));
///
/// checkpoint::save(&a, &tree!({ "w": [1.0, 2.0], "x": [0.0] }))?;
/// checkpoint::save(&b, &tree!({ "w": [4.0, 6.0] }))?;
/// let comparison = checkpoint::compare(&a, &b)?;
/// assert_eq!((comparison.tensors[0].distance, comparison.tensors[0].max_abs), (5.0, 4.0));
/// assert_eq!(comparison.only_in_first, ["x"]);
/// # std::fs::remove_dir_all(folder)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn compare(first: impl AsRef<Path>, second: impl AsRef<Path>) -> Result<Comparison> {
    compare_with(first, second, |_elements| {})
}

/// Compares two files tensor by tensor, as [`compare`] does, and calls `progress` with the number
/// of elements that were compared since its last call, some 65,000 at a time: to show how far it
/// is.
///
/// # Errors
/// [`is_io`](crate::Error::is_io): a file cannot be read.
/// [`is_invalid_file`](crate::Error::is_invalid_file): it is no safetensors file.
///
/// ```
/// use flatleaf::{checkpoint, tree};
/// # let path = std::env::temp_dir().join(format!("flatleaf-progress-{}", std::process::id()));
///
/// checkpoint::save(&path, &tree!({ "w": [1.0, 2.0], "b": [3.0] }))?;
/// let mut compared = 0;
/// checkpoint::compare_with(&path, &path, |elements| compared += elements)?;
/// assert_eq!(compared, 3);
/// # std::fs::remove_file(path)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn compare_with(
    first: impl AsRef<Path>,
    second: impl AsRef<Path>,
    mut progress: impl FnMut(usize),
) -> Result<Comparison> {
    let mut streams = Streams::open(&[first.as_ref(), second.as_ref()])?;
    let (mut comparison, pairs) = pair(&streams);
    for indices in pairs {
        let Tensor { name, .. } = &streams.first().tensors[indices[0]];
        let mut sums = Sums::default();
        let mut difference = Difference {
            name: name.clone(),
            len: streams.first().tensors[indices[0]].len(),
            ..Difference::default()
        };
        streams.read(&indices, |chunks| {
            sums.add(&chunks[0], &chunks[1]);
            progress(chunks[0].len());
            Ok(())
        })?;
        sums.finish(&mut difference);
        comparison.tensors.push(difference);
    }
    Ok(comparison)
}

/// Which tensors are compared, by their indices in both files, and which are not.
fn pair(streams: &Streams) -> (Comparison, Vec<[usize; 2]>) {
    let [first, second] = [0, 1].map(|file| &streams.files[file].header);
    let mut comparison = Comparison::default();
    let mut pairs = Vec::new();
    // What the first file met under any name is not told again as the second's own.
    let mut met = vec![false; second.tensors.len()];
    for (index, tensor) in first.models() {
        let mut names = first.names_of(index);
        let Some((other, _)) = names.find_map(|name| second.find_any(name)) else {
            comparison.only_in_first.push(tensor.name.clone());
            continue;
        };
        met[other] = true;
        let counterpart = &second.tensors[other];
        let are_numbers = tensor.number_type().is_some() && counterpart.number_type().is_some();
        if tensor.shape() != counterpart.shape() {
            comparison.other_shapes.push(tensor.name.clone());
        } else if !are_numbers {
            comparison.not_compared.push(tensor.name.clone());
        } else {
            pairs.push([index, other]);
        }
    }
    for (index, tensor) in second.models() {
        if met[index] {
            continue;
        }
        let mut names = second.names_of(index);
        let is_in_first = names.any(|name| first.find_any(name).is_some());
        if !is_in_first {
            comparison.only_in_second.push(tensor.name.clone());
        }
    }
    (comparison, pairs)
}

/// A sum of squares that neither overflows nor vanishes: of the elements divided by a power of two
/// about as large as the largest of them, which costs no bit.
///
/// Of 3e200 and 4e200 the power is 2⁶⁶⁶ or so, the squares are below 4, and the root of their sum
/// is multiplied by the power again: 5e200. LAPACK's `dlassq` divides by the largest element
/// itself, which rounds.
#[derive(Default)]
struct SumOfSquares {
    scale: f64,
    sum: f64,
}

impl SumOfSquares {
    fn add(&mut self, elements: impl Iterator<Item = f64> + Clone) {
        let magnitudes = elements.clone().map(f64::abs);
        let finite = magnitudes.filter(|x| x.is_finite());
        let largest = finite.fold(0.0, f64::max);
        let scale = power_of_two(largest);
        if scale > self.scale {
            let ratio = self.scale / scale;
            self.sum *= ratio * ratio;
            self.scale = scale;
        }
        let factor = 1.0 / self.scale;
        let squares = elements.map(|x| {
            let scaled = x * factor;
            scaled * scaled
        });
        self.sum += squares.sum::<f64>();
    }

    fn root(&self) -> f64 {
        self.sum.sqrt() * self.scale
    }
}

/// The largest power of two that is a normal number and not greater.
fn power_of_two(x: f64) -> f64 {
    const EXPONENT: u64 = 0x7ff << 52;
    f64::from_bits(x.to_bits() & EXPONENT).max(f64::MIN_POSITIVE)
}

#[derive(Default)]
struct Sums {
    distance: SumOfSquares,
    first: SumOfSquares,
    second: SumOfSquares,
    max_abs: f64,
}

impl Sums {
    fn add(&mut self, first: &[f64], second: &[f64]) {
        let differences = first.iter().zip(second).map(|(a, b)| a - b);
        self.distance.add(differences.clone());
        self.first.add(first.iter().copied());
        self.second.add(second.iter().copied());
        for difference in differences {
            // A NaN stays: nothing is larger.
            if difference.abs() > self.max_abs || difference.is_nan() {
                self.max_abs = difference.abs();
            }
        }
    }

    fn finish(self, difference: &mut Difference) {
        difference.distance = self.distance.root();
        difference.norm_first = self.first.root();
        difference.norm_second = self.second.root();
        difference.max_abs = self.max_abs;
    }
}
