/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* bcc/helpers.h refuses to compile without it. */
#define CONFIG_BPF_SYSCALL 1
