// Compile what follows for a CPU with more instructions than the rest of the program may use. Nothing that other files
// define too (templates of the standard library) may be first used in there.
#pragma once

#define LVM_PRAGMA(text) _Pragma(#text)
#if defined(__clang__)
#define LVM_TARGET(features) \
    LVM_PRAGMA(clang attribute push(__attribute__((target(features))), apply_to = function))
#define LVM_TARGET_END LVM_PRAGMA(clang attribute pop)
#elif defined(__GNUC__)
#define LVM_TARGET(features) LVM_PRAGMA(GCC push_options) LVM_PRAGMA(GCC target(features))
#define LVM_TARGET_END LVM_PRAGMA(GCC pop_options)
#else
#define LVM_TARGET(features)
#define LVM_TARGET_END
#endif

// A loop whose turns are known and few: an array that it runs over can lie in registers.
#if defined(__clang__)
#define LVM_UNROLL LVM_PRAGMA(unroll)
#elif defined(__GNUC__)
#define LVM_UNROLL LVM_PRAGMA(GCC unroll 16)
#else
#define LVM_UNROLL
#endif
