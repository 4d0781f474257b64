//! How lists of numbers become arrays: for `tree!` and for trees that are read.

use ndarray::{ArrayD, ArrayViewD, Axis, IxDyn};

use super::DynTree;

/// A part of a tree as it is written down: numbers are not yet arrays.
#[doc(hidden)]
#[derive(Debug)]
pub enum Literal {
    Number(f32),
    Array(ArrayD<f32>),
    Tree(DynTree),
}

impl Literal {
    fn as_array(&self) -> Option<ArrayViewD<'_, f32>> {
        match self {
            Literal::Array(array) => Some(array.view()),
            _ => None,
        }
    }

    pub fn absent() -> Self {
        Literal::Tree(DynTree::absent())
    }

    /// A list of numbers is one array; so is a list of such arrays of equal shape; any other list
    /// is a branch.
    pub fn list(items: Vec<Literal>) -> Self {
        numbers(&items).or_else(|| stacked(&items)).map_or_else(
            || Literal::Tree(DynTree::list(items.into_iter().map(DynTree::from))),
            Literal::Array,
        )
    }

    pub fn map(entries: Vec<(String, Literal)>) -> Self {
        Literal::Tree(DynTree::map(
            entries
                .into_iter()
                .map(|(key, tree)| (key, DynTree::from(tree))),
        ))
    }

    pub fn expression(tree: impl Into<DynTree>) -> Self {
        Literal::Tree(tree.into())
    }
}

fn numbers(items: &[Literal]) -> Option<ArrayD<f32>> {
    let number = |item: &Literal| {
        if let Literal::Number(number) = item {
            Some(*number)
        } else {
            None
        }
    };
    let numbers: Vec<f32> = items.iter().map(number).collect::<Option<_>>()?;
    if numbers.is_empty() {
        None
    } else {
        ArrayD::from_shape_vec(IxDyn(&[numbers.len()]), numbers).ok()
    }
}

fn stacked(items: &[Literal]) -> Option<ArrayD<f32>> {
    let arrays = items
        .iter()
        .map(Literal::as_array)
        .collect::<Option<Vec<ArrayViewD<'_, f32>>>>()?;
    ndarray::stack(Axis(0), &arrays).ok()
}

impl From<Literal> for DynTree {
    fn from(literal: Literal) -> Self {
        match literal {
            Literal::Number(number) => DynTree::from(number),
            Literal::Array(array) => DynTree::from(array),
            Literal::Tree(tree) => tree,
        }
    }
}

/// Writes a [`DynTree`] down: the gradient of any model, say.
///
/// Keys keep their order; numbers are `f32`. A bare number is a 0-d leaf; a list of numbers is one
/// array, nested lists of numbers of equal lengths are one array of more dimensions, and other
/// lists, `[]` too, are branches; `null` is absent. An expression in parentheses is anything that
/// converts into a `DynTree`.
///
/// # Panics
/// If one map has a key twice.
///
/// ```
/// use flatleaf::{destructure, tree};
/// use ndarray::arr2;
///
/// let bias = vec![5.0_f32, 6.0];
/// let tree = tree!({ "w": [[1.0, 2.0], [3.0, 4.0]], "b": (bias), "gone": null, "list": [{ "x": 7 }, [8.0]] });
/// assert_eq!(tree.get("w").and_then(|w| w.as_array::<f32>()), Some(&arr2(&[[1.0, 2.0], [3.0, 4.0]]).into_dyn()));
/// assert_eq!(destructure(&tree)?.0, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]);
/// # Ok::<(), flatleaf::Error>(())
/// ```
#[macro_export]
macro_rules! tree {
    ($($tokens:tt)+) => { $crate::DynTree::from($crate::__literal!($($tokens)+)) };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __literal {
    (null) => { $crate::__private::Literal::absent() };
    // The common list, without a step of recursion for each item.
    ([$($number:literal),+ $(,)?]) => {
        $crate::__private::Literal::list(::std::vec![$($crate::__private::Literal::Number($number as f32)),+])
    };
    ([$($items:tt)*]) => { $crate::__private::Literal::list($crate::__items!([] $($items)*)) };
    ({$($entries:tt)*}) => { $crate::__private::Literal::map($crate::__entries!([] $($entries)*)) };
    (($tree:expr)) => { $crate::__private::Literal::expression($tree) };
    ($number:expr) => { $crate::__private::Literal::Number($number as f32) };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __items {
    ([$($done:expr),*]) => { ::std::vec![$($done),*] };
    ([$($done:expr),*] null $(, $($rest:tt)*)?) => { $crate::__items!([$($done,)* $crate::__literal!(null)] $($($rest)*)?) };
    ([$($done:expr),*] [$($list:tt)*] $(, $($rest:tt)*)?) => {
        $crate::__items!([$($done,)* $crate::__literal!([$($list)*])] $($($rest)*)?)
    };
    ([$($done:expr),*] {$($map:tt)*} $(, $($rest:tt)*)?) => {
        $crate::__items!([$($done,)* $crate::__literal!({$($map)*})] $($($rest)*)?)
    };
    ([$($done:expr),*] ($tree:expr) $(, $($rest:tt)*)?) => {
        $crate::__items!([$($done,)* $crate::__literal!(($tree))] $($($rest)*)?)
    };
    ([$($done:expr),*] $number:expr $(, $($rest:tt)*)?) => {
        $crate::__items!([$($done,)* $crate::__literal!($number)] $($($rest)*)?)
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __entries {
    ([$($done:expr),*]) => { ::std::vec![$($done),*] };
    ([$($done:expr),*] $key:literal : null $(, $($rest:tt)*)?) => {
        $crate::__entries!([$($done,)* (($key).into(), $crate::__literal!(null))] $($($rest)*)?)
    };
    ([$($done:expr),*] $key:literal : [$($list:tt)*] $(, $($rest:tt)*)?) => {
        $crate::__entries!([$($done,)* (($key).into(), $crate::__literal!([$($list)*]))] $($($rest)*)?)
    };
    ([$($done:expr),*] $key:literal : {$($map:tt)*} $(, $($rest:tt)*)?) => {
        $crate::__entries!([$($done,)* (($key).into(), $crate::__literal!({$($map)*}))] $($($rest)*)?)
    };
    ([$($done:expr),*] $key:literal : ($tree:expr) $(, $($rest:tt)*)?) => {
        $crate::__entries!([$($done,)* (($key).into(), $crate::__literal!(($tree)))] $($($rest)*)?)
    };
    ([$($done:expr),*] $key:literal : $number:expr $(, $($rest:tt)*)?) => {
        $crate::__entries!([$($done,)* (($key).into(), $crate::__literal!($number))] $($($rest)*)?)
    };
}
