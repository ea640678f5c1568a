/* SPDX-License-Identifier: GPL-2.0 */
/*
 * A page frame number that says what is behind it.
 *
 * Code that hands out memory it found on a device knows whether that memory has
 * a memmap, code that receives a bare pfn can only guess: pfn_valid() is a
 * statement about sections, not about who initialised a struct page. A pfn_t
 * carries that knowledge along with the pfn.
 *
 * Headers that only need the name in a prototype can say "struct pfn_t;".
 */
#ifndef _LINUX_PFN_T_H
#define _LINUX_PFN_T_H

#include <linux/bits.h>
#include <linux/mm.h>
#include <linux/mmdebug.h>
#include <linux/pfn.h>
#include <linux/types.h>

/**
 * struct pfn_t - A page frame number and what is known about it.
 * @val: PFN_* flags in the topmost five bits, the pfn below. Opaque: use the
 *       helpers.
 *
 * A struct, so that the compiler refuses to mix it up with the integers that
 * carry pfns, or pfns and error codes, elsewhere.
 */
typedef struct pfn_t { u64 val; } pfn_t;

/*
 * PFN_SG_CHAIN: in a table of pfn_t: where the table goes on, no entry itself
 * PFN_SG_LAST:  in a table of pfn_t: the last entry
 * PFN_DEV:      device memory, there is no memmap unless PFN_MAP says so
 * PFN_MAP:      there is a memmap; with PFN_DEV it is a dev_pagemap's
 * PFN_SPECIAL:  map it special: no reference, no rmap, even if there is a memmap
 *
 * Physical addresses have at most 64 bits, so the widest pfn leaves PAGE_SHIFT
 * bits free, of which the flags take the topmost.
 */
#define PFN_SG_CHAIN	BIT_ULL(63)
#define PFN_SG_LAST	BIT_ULL(62)
#define PFN_DEV		BIT_ULL(61)
#define PFN_MAP		BIT_ULL(60)
#define PFN_SPECIAL	BIT_ULL(59)
#define PFN_FLAGS_MASK	GENMASK_ULL(63, 59)

/* For a tracepoint's TP_printk(); takes what pfn_t_flags() returned. */
#define show_pfn_t_flags(flags)						\
	__print_flags_u64(flags, "|",					\
		{ PFN_SG_CHAIN,	"SG_CHAIN" },				\
		{ PFN_SG_LAST,	"SG_LAST" },				\
		{ PFN_DEV,	"DEV" },				\
		{ PFN_MAP,	"MAP" },				\
		{ PFN_SPECIAL,	"SPECIAL" })

/**
 * pfn_to_pfn_t_flags() - Make a pfn_t of a pfn and what is known about it.
 * @pfn: The page frame number.
 * @flags: PFN_* flags.
 *
 * Neither argument can alter the other: bits of @pfn that lie where the flags
 * go, and bits of @flags that are no flags, are dropped. No memory is there, so
 * either is a bug, and is reported with CONFIG_DEBUG_VM.
 *
 * Return: The pfn_t.
 */
static inline pfn_t pfn_to_pfn_t_flags(unsigned long pfn, u64 flags)
{
	VM_WARN_ON_ONCE((pfn & PFN_FLAGS_MASK) || (flags & ~PFN_FLAGS_MASK));

	return (pfn_t) { (pfn & ~PFN_FLAGS_MASK) | (flags & PFN_FLAGS_MASK) };
}

/**
 * pfn_to_pfn_t() - Make a pfn_t of a pfn about which nothing more is known.
 * @pfn: The page frame number.
 *
 * Right for system memory only, where pfn_valid() can be asked for a memmap.
 *
 * Return: The pfn_t, without flags.
 */
static inline pfn_t pfn_to_pfn_t(unsigned long pfn)
{
	return pfn_to_pfn_t_flags(pfn, 0);
}

/**
 * phys_to_pfn_t() - Make a pfn_t of a physical address.
 * @phys: The physical address; its offset into the page is dropped.
 * @flags: PFN_* flags.
 *
 * Return: The pfn_t of the page frame that @phys is in.
 */
static inline pfn_t phys_to_pfn_t(phys_addr_t phys, u64 flags)
{
	return pfn_to_pfn_t_flags(PHYS_PFN(phys), flags);
}

/**
 * page_to_pfn_t() - Make a pfn_t of a page.
 * @page: The page.
 *
 * Return: The pfn_t with PFN_MAP, for there is a page, and with PFN_DEV if it
 *         is in ZONE_DEVICE.
 */
static inline pfn_t page_to_pfn_t(const struct page *page)
{
	return pfn_to_pfn_t_flags(page_to_pfn(page), PFN_MAP |
				  (is_zone_device_page(page) ? PFN_DEV : 0));
}

/**
 * pfn_t_flags() - What is known about a pfn.
 * @pfn: The pfn_t.
 *
 * Return: The PFN_* flags, in place, as given to the constructor.
 */
static inline u64 pfn_t_flags(pfn_t pfn)
{
	return pfn.val & PFN_FLAGS_MASK;
}

/**
 * pfn_t_to_pfn() - The bare page frame number.
 * @pfn: The pfn_t.
 *
 * Arithmetic is done on the result, for the pfn_t holds for one page frame.
 *
 * Return: The pfn, without flags.
 */
static inline unsigned long pfn_t_to_pfn(pfn_t pfn)
{
	return pfn.val & ~PFN_FLAGS_MASK;
}

/**
 * pfn_t_to_phys() - The physical address of a page frame.
 * @pfn: The pfn_t.
 *
 * Return: The address of the page frame's first byte.
 */
static inline phys_addr_t pfn_t_to_phys(pfn_t pfn)
{
	return PFN_PHYS(pfn_t_to_pfn(pfn));
}

/**
 * pfn_t_has_page() - Is there a struct page?
 * @pfn: The pfn_t.
 *
 * The flags decide wherever they can. pfn_valid() is asked for what did not
 * come from a device only: it may well be true for device memory without a
 * memmap, if a section has other memory in it.
 *
 * Return: True if there is a struct page behind @pfn.
 */
static inline bool pfn_t_has_page(pfn_t pfn)
{
	if (pfn.val & PFN_MAP)
		return true;
	return !(pfn.val & PFN_DEV) && pfn_valid(pfn_t_to_pfn(pfn));
}

/**
 * pfn_t_to_page() - The page behind a pfn.
 * @pfn: The pfn_t.
 *
 * Return: The struct page, NULL if there is none.
 */
static inline struct page *pfn_t_to_page(pfn_t pfn)
{
	if (!pfn_t_has_page(pfn))
		return NULL;
	return pfn_to_page(pfn_t_to_pfn(pfn));
}

/**
 * pfn_t_devmap() - Is it device memory with a memmap?
 * @pfn: The pfn_t.
 *
 * If so a dev_pagemap hosts the page, and has to be alive when it is pinned.
 *
 * Return: True for PFN_DEV and PFN_MAP.
 */
static inline bool pfn_t_devmap(pfn_t pfn)
{
	return (pfn.val & (PFN_DEV | PFN_MAP)) == (PFN_DEV | PFN_MAP);
}

/**
 * pfn_t_raw() - Is it device memory without a memmap?
 * @pfn: The pfn_t.
 *
 * Return: True for PFN_DEV without PFN_MAP.
 */
static inline bool pfn_t_raw(pfn_t pfn)
{
	return (pfn.val & (PFN_DEV | PFN_MAP)) == PFN_DEV;
}

/**
 * pfn_t_special() - Must it be mapped special?
 * @pfn: The pfn_t.
 *
 * Says nothing about whether there is a page, see pfn_t_has_page().
 *
 * Return: True for PFN_SPECIAL.
 */
static inline bool pfn_t_special(pfn_t pfn)
{
	return pfn.val & PFN_SPECIAL;
}

#endif /* _LINUX_PFN_T_H */
