/* SPDX-License-Identifier: (Apache-2.0 OR GPL-2.0-only) */
/* System calls: their numbers and registers, the memory they name, and the way from a file descriptor to its socket. */
#ifndef STINGLESS_SYSCALLS_H
#define STINGLESS_SYSCALLS_H

#include "buffer.h"

#if defined(__TARGET_ARCH_x86)
enum {
	NR_read = 0, NR_write = 1, NR_readv = 19, NR_writev = 20, NR_sendfile = 40, NR_sendto = 44, NR_recvfrom = 45,
	NR_sendmsg = 46, NR_recvmsg = 47, NR_splice = 275, NR_preadv2 = 327, NR_pwritev2 = 328, NR_recvmmsg = 299,
	NR_sendmmsg = 307,
};
#define TS_COMPAT 2 /* thread_info.status: a 32-bit system call, whose numbers mean something else */
#define SYSCALL_NR(r) ((r)->orig_ax)
#define ARG1(r) ((r)->di)
#define ARG2(r) ((r)->si)
#define ARG3(r) ((r)->dx)
#define ARG4(r) ((r)->r10)
#elif defined(__TARGET_ARCH_arm64)
enum {
	NR_read = 63, NR_write = 64, NR_readv = 65, NR_writev = 66, NR_sendfile = 71, NR_sendto = 206, NR_recvfrom = 207,
	NR_sendmsg = 211, NR_recvmsg = 212, NR_splice = 76, NR_preadv2 = 286, NR_pwritev2 = 287, NR_recvmmsg = 243,
	NR_sendmmsg = 269,
};
#define TIF_32BIT (1UL << 22)
#define SYSCALL_NR(r) ((r)->syscallno)
#define ARG1(r) ((r)->orig_x0) /* regs[0] is the result at exit */
#define ARG2(r) ((r)->regs[1])
#define ARG3(r) ((r)->regs[2])
#define ARG4(r) ((r)->regs[3])
#endif

enum call_kind {
	CALL_NONE,
	CALL_WRITE,    /* fd, buf, len */
	CALL_WRITEV,   /* fd, iov, n */
	CALL_SENDMSG,  /* fd, msghdr */
	CALL_SENDMMSG, /* fd, mmsghdr, n */
	CALL_SENDFILE, /* out fd */
	CALL_SPLICE,   /* third argument: out fd */
	CALL_READ,     /* fd, buf, len */
	CALL_READV,
	CALL_RECVFROM, /* fd, buf, len, flags */
	CALL_RECVMSG,  /* fd, msghdr, flags */
	CALL_RECVMMSG,
};

static __always_inline u32 call_kind(long nr)
{
	switch (nr) {
	case NR_write:
	case NR_sendto:
		return CALL_WRITE;
	case NR_writev:
	case NR_pwritev2:
		return CALL_WRITEV;
	case NR_sendmsg:
		return CALL_SENDMSG;
	case NR_sendmmsg:
		return CALL_SENDMMSG;
	case NR_sendfile:
		return CALL_SENDFILE;
	case NR_splice:
		return CALL_SPLICE;
	case NR_read:
		return CALL_READ;
	case NR_readv:
	case NR_preadv2:
		return CALL_READV;
	case NR_recvfrom:
		return CALL_RECVFROM;
	case NR_recvmsg:
		return CALL_RECVMSG;
	case NR_recvmmsg:
		return CALL_RECVMMSG;
	}
	return CALL_NONE;
}

static __always_inline bool is_32bit(struct task_struct *task)
{
#if defined(__TARGET_ARCH_x86)
	return task->thread_info.status & TS_COMPAT;
#else
	return task->thread_info.flags & TIF_32BIT;
#endif
}

/* Socket behind a descriptor of the current task, or 0. A file is a socket if its private data points back at it. */
static __always_inline u64 sock_of_fd(struct task_struct *task, u32 fd)
{
	struct fdtable *table = task->files->fdt;
	u64 file, socket;

	if (fd >= table->max_fds)
		return 0;
	file = peek_pointer((u64)table->fd + fd * sizeof(u64));
	if (!file)
		return 0;
	socket = (u64)PEEK(struct file, file, private_data);
	if (!socket || (u64)PEEK(struct socket, socket, file) != file)
		return 0;
	return (u64)PEEK(struct socket, socket, sk);
}

static __always_inline void flat(struct buf *b, u64 base)
{
	b->kind = BUF_FLAT;
	b->base = base;
	b->skip = 0;
}

static __always_inline void vector(struct buf *b, u64 iov, u64 n)
{
	b->kind = BUF_IOV_USER;
	b->base = iov;
	b->segments = n < MAX_SEGMENTS ? n : MAX_SEGMENTS;
	b->skip = 0;
}

static __always_inline bool message(struct buf *b, u64 msghdr)
{
	/* msg_iov and msg_iovlen, into base and skip: the stack has no room left */
	if (bpf_probe_read_user(b, 2 * sizeof(u64), &((struct user_msghdr *)msghdr)->msg_iov))
		return false;
	vector(b, b->base, b->skip);
	return true;
}

#endif
