"""Names that command lines choose from. Here, since --help must not wait for PyTorch."""

PRECISIONS = ("fp32", "bf16", "fp16")  # what a network computes in
STORED_DTYPES = ("int8", "float16", "bfloat16", "float32")  # of weights in a file
ROUNDINGS = ("nearest", "truncate")  # how floats become 8 bits
METRICS = ("psnr", "aligned_psnr", "ssim", "detail", "prior_features", "lpips", "fid", "kid")
DEFAULT_METRICS = tuple(name for name in METRICS if name not in ("aligned_psnr", "prior_features"))
CALIBRATION = (  # metrics of several samples of every image
    "coverage_50",
    "coverage_90",
    "spread_error",
    "crps",
    "energy_score",
    "residual",
    "psnr_of_mean",
)
GROUP_PATTERNS = {  # of names of images without suffix: what the first group matches is in common
    "photo": r"(.+)_r\d+_y\d+_x\d+$",  # crops of the embedded photographs
    "folder": r"^(.*/|)",
}
LPIPS_VARIANTS = ("release", "vgg", "alex")
LPIPS_DEFAULT = ("release", "vgg")
NETWORK_PARTS = (
    "generator",
    "raw_generator",
    "score",
    "discriminator",
    "prior",
    "i2sb",
    "teacher",
)
