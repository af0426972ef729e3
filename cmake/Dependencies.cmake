# Finds what the library needs and says, in one message each, which Debian package brings what is missing.
#
# EVENKEEL_PRIVATE_LIBRARIES   what the objects and both libraries link
# EVENKEEL_DEPENDENCIES        find_package() arguments that bring them back for users of the installed static library
# EVENKEEL_OPENMP_RUNTIME      files of the OpenMP runtime that such users need as well
set(EVENKEEL_PRIVATE_LIBRARIES m)
set(EVENKEEL_DEPENDENCIES ZLIB)
set(EVENKEEL_OPENMP_RUNTIME "")

find_package(ZLIB QUIET)
if(NOT ZLIB_FOUND)
  message(FATAL_ERROR "zlib is needed (checkpoints and compressed data).  On Debian: apt-get install zlib1g-dev")
endif()
list(APPEND EVENKEEL_PRIVATE_LIBRARIES ZLIB::ZLIB)

if(EVENKEEL_OPENMP)
  find_package(OpenMP QUIET COMPONENTS C)
  if(OpenMP_C_FOUND)
    # A name of our own: who links the static library needs the runtime of the compiler that built it, whatever OpenMP
    # his own compiler has.
    add_library(evenkeel::openmp INTERFACE IMPORTED)
    set_target_properties(evenkeel::openmp PROPERTIES INTERFACE_LINK_LIBRARIES OpenMP::OpenMP_C)
    list(APPEND EVENKEEL_PRIVATE_LIBRARIES evenkeel::openmp)
    foreach(name ${OpenMP_C_LIB_NAMES})
      list(APPEND EVENKEEL_OPENMP_RUNTIME ${OpenMP_${name}_LIBRARY})
    endforeach()
  else()
    message(WARNING "OpenMP was not found: kernels will run on one thread.  On Debian gcc brings it; "
      "for clang: apt-get install libomp-dev")
  endif()
endif()

set(EVENKEEL_HAVE_BLAS OFF)
if(NOT EVENKEEL_BLAS STREQUAL "OFF")
  list(PREPEND CMAKE_MODULE_PATH ${CMAKE_CURRENT_LIST_DIR})
  find_package(OpenBLAS QUIET MODULE)
  if(OpenBLAS_FOUND)
    set(EVENKEEL_HAVE_BLAS ON)
    list(APPEND EVENKEEL_PRIVATE_LIBRARIES OpenBLAS::OpenBLAS)
    list(APPEND EVENKEEL_DEPENDENCIES OpenBLAS)
  elseif(EVENKEEL_BLAS STREQUAL "ON")
    message(FATAL_ERROR "EVENKEEL_BLAS=ON, but OpenBLAS was not found.  On Debian: apt-get install libopenblas-dev")
  else()
    message(STATUS "OpenBLAS was not found: the built-in matrix product is used, which is slower for small ones.  "
      "On Debian: apt-get install libopenblas-dev")
  endif()
endif()

# Function multi-versioning: GCC and clang on x86-64.  A thread sanitizer crashes at start with it.
set(EVENKEEL_CAN_MULTIVERSION OFF)
if(EVENKEEL_MULTIVERSION AND NOT EVENKEEL_SANITIZE MATCHES "thread")
  set(CMAKE_REQUIRED_INCLUDES ${PROJECT_SOURCE_DIR}/include ${PROJECT_SOURCE_DIR}/src/tensor)
  check_c_source_compiles("
    #define EK_MULTIVERSION
    #include <core.h>
    EK_KERNEL static void scale(float *x, int n) { for (int i = 0; i < n; i++) x[i] *= 2; }
    int main(int argc, char **argv) { float x[64] = {0}; (void)argv; scale(x, argc); return (int)x[0]; }"
    EVENKEEL_COMPILER_MULTIVERSIONS)
  unset(CMAKE_REQUIRED_INCLUDES)
  set(EVENKEEL_CAN_MULTIVERSION ${EVENKEEL_COMPILER_MULTIVERSIONS})
endif()
