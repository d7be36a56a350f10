//! Matrix products and the depthwise convolution.

use super::error::Fault;
use super::eval::floats;
use super::tensor::Tensor;

/// The optional bias of `o` outputs: zeros when absent.
fn bias(args: &[&Tensor], o: usize) -> Result<Vec<f32>, Fault> {
    if args.len() > 2 { Ok(floats(args, 2)?.to_vec()) } else { Ok(vec![0.0; o]) }
}

/// `x [n, k], w [o, k] (, bias [o]) -> [n, o]`.
pub(super) fn linear(args: &[&Tensor], shape: Vec<usize>) -> Result<Tensor, Fault> {
    let (x, w) = (floats(args, 0)?, floats(args, 1)?);
    let (o, k) = (args[1].shape[0], args[1].shape[1]);
    let bias = bias(args, o)?;
    let mut data = Vec::with_capacity(shape.iter().product());
    for row in 0..shape[..shape.len() - 1].iter().product() {
        for out in 0..o {
            let mut sum = 0.0;
            for i in 0..k {
                sum += x[row * k + i] * w[out * k + i];
            }
            data.push(sum + bias[out]);
        }
    }
    Ok(Tensor::f32(shape, data))
}

/// `a [n, m, k], b [n, k, o] -> [n, m, o]`.
pub(super) fn matmul(args: &[&Tensor], shape: Vec<usize>) -> Result<Tensor, Fault> {
    let (a, b) = (floats(args, 0)?, floats(args, 1)?);
    let rank = shape.len();
    let (m, o, k) = (shape[rank - 2], shape[rank - 1], args[0].shape[rank - 1]);
    let mut data = Vec::with_capacity(shape.iter().product());
    for n in 0..shape[..rank - 2].iter().product() {
        for row in 0..m {
            for column in 0..o {
                let mut sum = 0.0;
                for i in 0..k {
                    sum += a[(n * m + row) * k + i] * b[(n * k + i) * o + column];
                }
                data.push(sum);
            }
        }
    }
    Ok(Tensor::f32(shape, data))
}

/// `x [c, l], w [c, taps] (, bias [c]) -> [c, l - taps + 1]`.
pub(super) fn depthwise_conv(args: &[&Tensor], shape: Vec<usize>, taps: usize) -> Result<Tensor, Fault> {
    let (x, w) = (floats(args, 0)?, floats(args, 1)?);
    let (channels, length, out) = (shape[0], args[0].shape[1], shape[1]);
    let bias = bias(args, channels)?;
    let mut data = Vec::with_capacity(channels * out);
    for c in 0..channels {
        for t in 0..out {
            let mut sum = 0.0;
            for j in 0..taps {
                sum += w[c * taps + j] * x[c * length + t + j];
            }
            data.push(sum + bias[c]);
        }
    }
    Ok(Tensor::f32(shape, data))
}
