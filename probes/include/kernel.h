/* SPDX-License-Identifier: (Apache-2.0 OR GPL-2.0-only) */
/*
 * The few kernel types that the probes read, with only the fields they read. CO-RE moves every offset to the running
 * kernel's, so no vmlinux.h of a build machine is needed. Names and types are the kernel's (6.1 to 6.18); a name with
 * ___suffix is another kernel's form of the same type.
 */
#ifndef STINGLESS_KERNEL_H
#define STINGLESS_KERNEL_H
#define __VMLINUX_H__ /* bpf_tracing.h: use the kernel's names of registers */

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef signed int s32;
typedef signed long long s64;
typedef u8 __u8;
typedef u16 __u16;
typedef u32 __u32;
typedef u64 __u64;
typedef s32 __s32;
typedef s64 __s64;
typedef short __s16;
typedef signed char __s8;
typedef u16 __be16;
typedef u32 __be32;
typedef u64 __be64;
typedef u32 __wsum;
typedef u64 size_t;
typedef u8 bool;
#define true 1
#define false 0
#define NULL ((void *)0)

enum bpf_map_type {
	BPF_MAP_TYPE_HASH = 1,
	BPF_MAP_TYPE_ARRAY = 2,
	BPF_MAP_TYPE_PERCPU_HASH = 5,
	BPF_MAP_TYPE_PERCPU_ARRAY = 6,
	BPF_MAP_TYPE_LRU_HASH = 9,
	BPF_MAP_TYPE_RINGBUF = 27,
	BPF_MAP_TYPE_TASK_STORAGE = 29,
};
enum { BPF_ANY = 0, BPF_NOEXIST = 1, BPF_EXIST = 2 };
enum { BPF_F_NO_PREALLOC = 1 };
enum { BPF_LOCAL_STORAGE_GET_F_CREATE = 1 };
enum { BPF_RB_NO_WAKEUP = 1, BPF_RB_FORCE_WAKEUP = 2 };

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

#if defined(__TARGET_ARCH_x86)
struct pt_regs {
	unsigned long r15, r14, r13, r12, bp, bx, r11, r10, r9, r8, ax, cx, dx, si, di, orig_ax, ip, cs, flags, sp, ss;
};
#elif defined(__TARGET_ARCH_arm64)
struct user_pt_regs {
	u64 regs[31], sp, pc, pstate;
};
struct pt_regs {
	u64 regs[31], sp, pc, pstate;
	u64 orig_x0;
	s32 syscallno;
};
#endif

struct thread_info {
	unsigned long flags;
	u32 status;
};

struct hlist_head {
	struct hlist_node *first;
};
struct file {
	void *private_data;
	unsigned int f_flags;
	struct hlist_head *f_ep; /* epoll's, that watch it */
};
struct fdtable {
	unsigned int max_fds;
	struct file **fd;
};
struct files_struct {
	struct fdtable *fdt;
};
struct signal_struct {
	struct {
		int counter;
	} live;
};
struct task_struct {
	struct thread_info thread_info;
	unsigned int flags;
	int pid;
	int tgid;
	struct task_struct *group_leader;
	struct task_struct *real_parent;
	u64 start_time; /* of CLOCK_MONOTONIC */
	char comm[16];
	struct files_struct *files;
	struct signal_struct *signal;
};
struct bpf_map {
	u32 max_entries;
};
struct linux_binprm {
	const char *filename;
};

struct net;
struct socket;
typedef struct {
	struct net *net;
} possible_net_t;
struct in6_addr {
	union {
		u8 u6_addr8[16];
		__be32 u6_addr32[4];
	} in6_u;
};
struct sock_common {
	__be32 skc_daddr;
	__be32 skc_rcv_saddr;
	__be16 skc_dport;
	u16 skc_num;
	u16 skc_family;
	volatile u8 skc_state;
	unsigned long skc_flags;
	possible_net_t skc_net;
	struct in6_addr skc_v6_daddr;
	struct in6_addr skc_v6_rcv_saddr;
};
struct sock {
	struct sock_common __sk_common;
	struct socket *sk_socket;
	u16 sk_protocol;
	u8 sk_shutdown;
	int sk_err;
};
struct tcp_sock {
	u32 rcv_nxt;
	u32 copied_seq;
	u32 write_seq;
	u32 lsndtime; /* jiffies when something was sent last; of what was accepted, at first when it came to be */
};
struct socket {
	struct file *file;
	struct sock *sk;
};

struct iovec {
	void *iov_base;
	u64 iov_len;
};
enum iter_type {
	ITER_UBUF,
	ITER_IOVEC,
};
struct iov_iter {
	u8 iter_type;
	u64 iov_offset;
	u64 count;
	unsigned long nr_segs;
	const struct iovec *__iov;
	void *ubuf;
};
struct iov_iter___before_6_4 {
	const struct iovec *iov;
};
struct msghdr {
	struct iov_iter msg_iter;
};

#pragma clang attribute pop

/* UAPI, laid out by the architecture and not by the kernel build: no relocation. */
struct user_msghdr {
	void *msg_name;
	int msg_namelen;
	int pad;
	struct iovec *msg_iov;
	u64 msg_iovlen;
	void *msg_control;
	u64 msg_controllen;
	unsigned int msg_flags;
	unsigned int pad2;
};
struct mmsghdr {
	struct user_msghdr msg_hdr;
	unsigned int msg_len;
	unsigned int pad;
};

#define EEXIST 17
#define AF_INET 2
#define AF_INET6 10
#define IPPROTO_TCP 6
#define BPF_F_USER_STACK (1U << 8)
#define MSG_PEEK 0x2
#define MSG_TRUNC 0x20
#define MSG_DONTWAIT 0x40
#define MSG_ERRQUEUE 0x2000
#define PF_IO_WORKER 0x10
#define PF_KTHREAD 0x00200000
#define O_NONBLOCK 04000
#define FASYNC 020000
#define SHUTDOWN_MASK 3
#define SOCK_DEAD 0 /* bit of skc_flags: no process holds the socket */
#define SOCK_DONE 1 /* bit of skc_flags: the peer's FIN came */

enum {
	TCP_ESTABLISHED = 1,
	TCP_SYN_SENT,
	TCP_SYN_RECV,
	TCP_FIN_WAIT1,
	TCP_FIN_WAIT2,
	TCP_TIME_WAIT,
	TCP_CLOSE,
	TCP_CLOSE_WAIT,
	TCP_LAST_ACK,
	TCP_LISTEN,
	TCP_CLOSING,
};

#endif
