"""The scan in CUDA C++, compiled at run time by NVRTC, the compiler that comes with torch: no nvcc, no C compiler.

Experimental, for `NNUNETV2_DSVM_NVRTC=1`, where `scan.supports` says yes; the Triton kernels run everything else.
"""
