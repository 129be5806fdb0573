"""The scan in CUDA C++, compiled at run time by NVRTC, the compiler that comes with torch: no nvcc, no C compiler.

Used where `scan.supports` says yes, unless `NNUNETV2_DSVM_NVRTC=0`; the Triton kernels run everything else.
"""
