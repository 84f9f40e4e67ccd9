/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * The program depends on no kernel version. 5.5 is the first kernel whose array
 * maps can be mmap'd; bcc/helpers.h only asks whether it is at least 4.8.
 */
#define KERNEL_VERSION(a, b, c) (((a) << 16) + ((b) << 8) + (c))
#define LINUX_VERSION_CODE KERNEL_VERSION(5, 5, 0)
