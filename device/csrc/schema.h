/* The parts of the TensorFlow Lite schema (version 3) that the engine reads: field numbers and codes. */
#ifndef DN_SCHEMA_H
#define DN_SCHEMA_H

enum { MODEL_VERSION, MODEL_OPERATOR_CODES, MODEL_SUBGRAPHS, MODEL_DESCRIPTION, MODEL_BUFFERS };
enum { OPCODE_DEPRECATED, OPCODE_CUSTOM, OPCODE_VERSION, OPCODE_CODE };
enum { SUBGRAPH_TENSORS, SUBGRAPH_INPUTS, SUBGRAPH_OUTPUTS, SUBGRAPH_OPERATORS };
enum { TENSOR_SHAPE, TENSOR_TYPE, TENSOR_BUFFER, TENSOR_NAME, TENSOR_QUANTIZATION, TENSOR_VARIABLE, TENSOR_SPARSITY };
enum { QUANT_MIN, QUANT_MAX, QUANT_SCALE, QUANT_ZERO_POINT, QUANT_DETAILS_TYPE, QUANT_DETAILS, QUANT_DIMENSION };
enum { OPERATOR_OPCODE, OPERATOR_INPUTS, OPERATOR_OUTPUTS, OPERATOR_OPTIONS_TYPE, OPERATOR_OPTIONS };
enum { BUFFER_DATA, BUFFER_OFFSET, BUFFER_SIZE };

enum { CONV_PADDING, CONV_STRIDE_W, CONV_STRIDE_H, CONV_ACTIVATION, CONV_DILATION_W, CONV_DILATION_H };
enum {
    DEPTHWISE_PADDING, DEPTHWISE_STRIDE_W, DEPTHWISE_STRIDE_H, DEPTHWISE_MULTIPLIER, DEPTHWISE_ACTIVATION,
    DEPTHWISE_DILATION_W, DEPTHWISE_DILATION_H
};
enum { POOL_PADDING, POOL_STRIDE_W, POOL_STRIDE_H, POOL_FILTER_W, POOL_FILTER_H, POOL_ACTIVATION };
enum { DENSE_ACTIVATION, DENSE_FORMAT, DENSE_KEEP_DIMS };
enum { SLICE_BEGIN_MASK, SLICE_END_MASK, SLICE_ELLIPSIS_MASK, SLICE_NEW_AXIS_MASK, SLICE_SHRINK_MASK, SLICE_OFFSET };
enum { BILINEAR_ALIGN_CORNERS = 2, BILINEAR_HALF_PIXEL = 3, NEAREST_ALIGN_CORNERS = 0, NEAREST_HALF_PIXEL = 1 };
enum { CONCAT_AXIS, CONCAT_ACTIVATION };

enum { PADDING_SAME, PADDING_VALID };
enum { ACTIVATION_NONE, ACTIVATION_RELU, ACTIVATION_RELU_N1_TO_1, ACTIVATION_RELU6 };

/* code, name, number of its options in the BuiltinOptions union (0: it has none) */
#define DN_OPERATORS(X)             \
    X(0, ADD, 11)                   \
    X(1, AVERAGE_POOL_2D, 5)        \
    X(2, CONCATENATION, 10)         \
    X(3, CONV_2D, 1)                \
    X(4, DEPTHWISE_CONV_2D, 2)      \
    X(6, DEQUANTIZE, 0)             \
    X(9, FULLY_CONNECTED, 8)        \
    X(14, LOGISTIC, 0)              \
    X(17, MAX_POOL_2D, 5)           \
    X(18, MUL, 21)                  \
    X(19, RELU, 0)                  \
    X(20, RELU_N1_TO_1, 0)          \
    X(21, RELU6, 0)                 \
    X(22, RESHAPE, 0)               \
    X(23, RESIZE_BILINEAR, 15)      \
    X(25, SOFTMAX, 9)               \
    X(28, TANH, 0)                  \
    X(34, PAD, 0)                   \
    X(39, TRANSPOSE, 0)             \
    X(40, MEAN, 27)                 \
    X(41, SUB, 28)                  \
    X(43, SQUEEZE, 0)               \
    X(45, STRIDED_SLICE, 32)        \
    X(49, SPLIT, 35)                \
    X(60, PADV2, 0)                 \
    X(70, EXPAND_DIMS, 0)           \
    X(97, RESIZE_NEAREST_NEIGHBOR, 74) \
    X(98, LEAKY_RELU, 75)           \
    X(114, QUANTIZE, 0)             \
    X(117, HARD_SWISH, 0)

#define DN_CODE(code, name, options) OP_##name = code,
enum { DN_OPERATORS(DN_CODE) };
#undef DN_CODE

#endif
