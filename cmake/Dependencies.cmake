# Finds what the library needs and says, in one message each, which Debian package brings what is missing.
set(EVENKEEL_PRIVATE_LIBRARIES m)

find_package(ZLIB)
if(NOT ZLIB_FOUND)
  message(FATAL_ERROR "zlib is needed (checkpoints and compressed data).  On Debian: apt-get install zlib1g-dev")
endif()
list(APPEND EVENKEEL_PRIVATE_LIBRARIES ZLIB::ZLIB)

if(EVENKEEL_OPENMP)
  find_package(OpenMP COMPONENTS C)
  if(OpenMP_C_FOUND)
    list(APPEND EVENKEEL_PRIVATE_LIBRARIES OpenMP::OpenMP_C)
  else()
    message(WARNING "OpenMP was not found: kernels will run on one thread.  On Debian gcc brings it; "
      "for clang: apt-get install libomp-14-dev")
  endif()
endif()

set(EVENKEEL_HAVE_BLAS OFF)
if(NOT EVENKEEL_BLAS STREQUAL "OFF")
  find_path(OPENBLAS_INCLUDE_DIR cblas.h PATH_SUFFIXES openblas openblas-pthread openblas-openmp openblas-serial
    x86_64-linux-gnu ${CMAKE_LIBRARY_ARCHITECTURE})
  find_library(OPENBLAS_LIBRARY openblas)
  if(OPENBLAS_INCLUDE_DIR AND OPENBLAS_LIBRARY)
    set(EVENKEEL_HAVE_BLAS ON)
    list(APPEND EVENKEEL_PRIVATE_LIBRARIES ${OPENBLAS_LIBRARY})
  elseif(EVENKEEL_BLAS STREQUAL "ON")
    message(FATAL_ERROR "EVENKEEL_BLAS=ON, but OpenBLAS was not found.  On Debian: apt-get install libopenblas-dev")
  else()
    message(STATUS "OpenBLAS was not found: the built-in matrix product is used, which is slower.  "
      "On Debian: apt-get install libopenblas-dev")
  endif()
endif()

# Function multi-versioning: GCC and clang on x86-64.  A thread sanitizer crashes at start with it.
set(EVENKEEL_CAN_MULTIVERSION OFF)
if(EVENKEEL_MULTIVERSION AND NOT EVENKEEL_SANITIZE MATCHES "thread")
  check_c_source_compiles("
    __attribute__((target_clones(\"default\", \"arch=x86-64-v3\", \"arch=x86-64-v4\")))
    static void scale(float *x, int n) { for (int i = 0; i < n; i++) x[i] *= 2; }
    int main(int argc, char **argv) { float x[64] = {0}; (void)argv; scale(x, argc); return (int)x[0]; }"
    EVENKEEL_COMPILER_MULTIVERSIONS)
  set(EVENKEEL_CAN_MULTIVERSION ${EVENKEEL_COMPILER_MULTIVERSIONS})
endif()
