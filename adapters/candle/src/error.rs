//! Errors across the edge: candle's into flatleaf's, and back.

use flatleaf::Error;

/// An error of candle's as one of flatleaf's, for closures that return
/// [`flatleaf::Result`]: it answers to `is_custom`, and gets the path of the variable at which it
/// was raised.
///
/// With `RUST_BACKTRACE` set candle prints a backtrace behind its message; here the message stands
/// alone, so that a test or a log reads alike either way.
///
/// ```
/// use candle_core::{Device, Tensor};
///
/// let vector = Tensor::zeros(3, candle_core::DType::F32, &Device::Cpu)?;
/// let error = flatleaf_candle::from_candle(vector.reshape((2, 2)).unwrap_err());
/// assert!(error.is_custom() && !error.to_string().contains('\n'));
/// # Ok::<(), candle_core::Error>(())
/// ```
pub fn from_candle(error: candle_core::Error) -> Error {
    let mut error = &error;
    while let candle_core::Error::WithBacktrace { inner, .. } = error {
        error = inner;
    }
    Error::custom(error)
}

/// An error of flatleaf's as one of candle's, where a trait of candle's asks for it. Its message is
/// kept; its kind is not, so that who wants to ask for it calls
/// [`FlatOptimizer::update`](crate::FlatOptimizer::update) in place of candle's `step`.
///
/// ```
/// let error = flatleaf::ops::clip_norm(&mut [1.0], -1.0).unwrap_err();
/// let message = error.to_string();
/// assert_eq!(flatleaf_candle::to_candle(error).to_string(), message);
/// ```
pub fn to_candle(error: Error) -> candle_core::Error {
    // Not by `Error::wrap`, which would put a backtrace behind the message.
    candle_core::Error::Wrapped(Box::new(error))
}
