"""Graph passes: each one rewrite, with what it requires and ensures checked, and the truth about what it changed.

`network_boundary` marks and names the edge of the bare network. `adaptive_pool`, `max_unpool`, `prelu`, `reduction`,
`resize_by_scales` and `resize_scales` turn what PyTorch exports into operators that every backend has.
`uint8_boundary`, `large_pool`, `matrix_convolution` and `tensorrt_ops` make and check the form that TensorRT takes;
`gather_first` and `channel_reductions` make the form that ONNX Runtime runs fastest. `clean_up` folds constants and
drops dead code, `node_names` names nodes after their module, `older_opset` is for older parsers, `base` holds what all
share; `export_graph` and `lower` put them in order.
"""
