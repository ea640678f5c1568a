// SPDX-License-Identifier: GPL-2.0-only
/*
 * What GUP and HMM make of page table entries that have no page.
 *
 * User space cannot set up a special entry in a mapping that GUP accepts, so a
 * file whose fault handler does it is mapped here.
 */
#include <kunit/test.h>
#include <linux/anon_inodes.h>
#include <linux/file.h>
#include <linux/hmm.h>
#include <linux/huge_mm.h>
#include <linux/mm.h>
#include <linux/mman.h>
#include <linux/mmu_notifier.h>

#include "../internal.h"

MODULE_IMPORT_NS("EXPORTED_FOR_KUNIT_TESTING");

#define MAP_LEN	(2 * PMD_SIZE)

/*
 * What is mapped special. It has a memmap, which GUP must leave alone all the
 * same, so that a kernel that gets it wrong fails the test instead of crashing.
 */
static struct folio *backing;

struct special_map {
	struct page *pages[2];
	unsigned long addr;
	int refs;
};

static vm_fault_t special_pte_fault(struct vm_fault *vmf)
{
	return vmf_insert_mixed(vmf->vma, vmf->address, folio_pfn(backing));
}

#ifdef CONFIG_ARCH_SUPPORTS_PMD_PFNMAP
#define SPECIAL_ORDER	PMD_ORDER

static vm_fault_t special_pmd_fault(struct vm_fault *vmf, unsigned int order)
{
	if (order != PMD_ORDER)
		return VM_FAULT_FALLBACK;
	return vmf_insert_pfn_pmd(vmf, folio_pfn(backing),
				  vmf->flags & FAULT_FLAG_WRITE);
}

static const struct vm_operations_struct special_pmd_ops = {
	.fault = special_pte_fault,
	.huge_fault = special_pmd_fault,
};
#else
#define SPECIAL_ORDER	0
#endif /* CONFIG_ARCH_SUPPORTS_PMD_PFNMAP */

static const struct vm_operations_struct special_pte_ops = {
	.fault = special_pte_fault,
};

static int special_mmap(struct file *file, struct vm_area_struct *vma)
{
	vm_flags_set(vma, VM_MIXEDMAP | VM_HUGEPAGE);
	vma->vm_ops = file->private_data;
	return 0;
}

static const struct file_operations special_fops = {
	.mmap = special_mmap,
};

KUNIT_DEFINE_ACTION_WRAPPER(fput_action, fput, struct file *);

static void map_special(struct kunit *test, struct special_map *map,
			const struct vm_operations_struct *ops)
{
	struct file *file;
	unsigned long addr;

	file = anon_inode_getfile("[gup_kunit]", &special_fops, (void *)ops, O_RDWR);
	KUNIT_ASSERT_NOT_ERR_OR_NULL(test, file);
	KUNIT_ASSERT_EQ(test, 0, kunit_add_action_or_reset(test, fput_action, file));

	addr = kunit_vm_mmap(test, file, 0, MAP_LEN, PROT_READ | PROT_WRITE,
			     MAP_SHARED, 0);
	KUNIT_ASSERT_NE(test, addr, 0);
	KUNIT_ASSERT_FALSE(test, IS_ERR_VALUE(addr));
	map->addr = ALIGN(addr, PMD_SIZE);
	map->refs = folio_ref_count(backing);
}

/* Fault in and look whether the mapping is what the test is about. */
static void populate_special(struct kunit *test, struct special_map *map, bool huge)
{
	int locked = 1;
	pmd_t *pmd;
	long ret;

	mmap_read_lock(current->mm);
	ret = faultin_page_range(current->mm, map->addr, map->addr + PMD_SIZE,
				 true, &locked);
	if (locked)
		mmap_read_unlock(current->mm);
	KUNIT_ASSERT_GT(test, ret, 0);

	mmap_read_lock(current->mm);
	pmd = mm_find_pmd(current->mm, map->addr);
	mmap_read_unlock(current->mm);
	KUNIT_ASSERT_NOT_NULL(test, pmd);
	KUNIT_ASSERT_EQ(test, huge, pmd_leaf(pmdp_get(pmd)));
}

static void expect_gup_efault(struct kunit *test, struct special_map *map,
			      unsigned int gup_flags)
{
	KUNIT_EXPECT_EQ(test, -EFAULT,
			get_user_pages_fast(map->addr, 2, gup_flags, map->pages));
	KUNIT_EXPECT_EQ(test, -EFAULT,
			pin_user_pages_fast(map->addr, 2, gup_flags, map->pages));

	mmap_read_lock(current->mm);
	KUNIT_EXPECT_EQ(test, -EFAULT,
			get_user_pages(map->addr, 2, gup_flags, map->pages));
	mmap_read_unlock(current->mm);

	KUNIT_EXPECT_EQ(test, map->refs, folio_ref_count(backing));
}

static void gup_special_pte(struct kunit *test)
{
	struct special_map map;

	map_special(test, &map, &special_pte_ops);
	/* Without and with a page table entry that is there already. */
	expect_gup_efault(test, &map, 0);
	populate_special(test, &map, false);
	expect_gup_efault(test, &map, 0);
	expect_gup_efault(test, &map, FOLL_WRITE);
}

#ifdef CONFIG_ARCH_SUPPORTS_PMD_PFNMAP
static void gup_special_pmd(struct kunit *test)
{
	struct special_map map;

	/* Only the THP settings let a fault handler map a pmd here. */
	if (!has_transparent_hugepage() || !hugepage_global_enabled())
		kunit_skip(test, "THP is off");

	map_special(test, &map, &special_pmd_ops);
	expect_gup_efault(test, &map, 0);
	populate_special(test, &map, true);
	expect_gup_efault(test, &map, 0);
	expect_gup_efault(test, &map, FOLL_WRITE);
}
#endif

#ifdef CONFIG_HMM_MIRROR
static bool hmm_invalidate(struct mmu_interval_notifier *mni,
			   const struct mmu_notifier_range *range,
			   unsigned long seq)
{
	mmu_interval_set_seq(mni, seq);
	return true;
}

static const struct mmu_interval_notifier_ops hmm_ops = {
	.invalidate = hmm_invalidate,
};

static int hmm_look(struct mmu_interval_notifier *mni, unsigned long addr,
		    unsigned long request, unsigned long *pfns)
{
	struct hmm_range range = {
		.notifier = mni,
		.notifier_seq = mmu_interval_read_begin(mni),
		.start = addr,
		.end = addr + 2 * PAGE_SIZE,
		.hmm_pfns = pfns,
		.default_flags = request,
	};
	int ret;

	mmap_read_lock(current->mm);
	ret = hmm_range_fault(&range);
	mmap_read_unlock(current->mm);
	return ret;
}

static void expect_hmm_error(struct kunit *test, struct special_map *map)
{
	struct mmu_interval_notifier mni;
	unsigned long pfns[2] = { };

	KUNIT_ASSERT_EQ(test, 0,
			mmu_interval_notifier_insert(&mni, current->mm, map->addr,
						     PMD_SIZE, &hmm_ops));
	KUNIT_EXPECT_EQ(test, 0, hmm_look(&mni, map->addr, 0, pfns));
	KUNIT_EXPECT_EQ(test, (unsigned long)HMM_PFN_ERROR, pfns[0]);
	KUNIT_EXPECT_EQ(test, (unsigned long)HMM_PFN_ERROR, pfns[1]);
	KUNIT_EXPECT_EQ(test, -EFAULT,
			hmm_look(&mni, map->addr, HMM_PFN_REQ_FAULT, pfns));
	mmu_interval_notifier_remove(&mni);
}

static void hmm_special_pte(struct kunit *test)
{
	struct special_map map;

	map_special(test, &map, &special_pte_ops);
	populate_special(test, &map, false);
	expect_hmm_error(test, &map);
}

#ifdef CONFIG_ARCH_SUPPORTS_PMD_PFNMAP
static void hmm_special_pmd(struct kunit *test)
{
	struct special_map map;

	/* Only the THP settings let a fault handler map a pmd here. */
	if (!has_transparent_hugepage() || !hugepage_global_enabled())
		kunit_skip(test, "THP is off");

	map_special(test, &map, &special_pmd_ops);
	populate_special(test, &map, true);
	expect_hmm_error(test, &map);
}
#endif
#endif /* CONFIG_HMM_MIRROR */

static int gup_suite_init(struct kunit_suite *suite)
{
	backing = folio_alloc(GFP_KERNEL, SPECIAL_ORDER);
	return backing ? 0 : -ENOMEM;
}

static void gup_suite_exit(struct kunit_suite *suite)
{
	folio_put(backing);
}

static struct kunit_case gup_test_cases[] = {
	KUNIT_CASE(gup_special_pte),
#ifdef CONFIG_ARCH_SUPPORTS_PMD_PFNMAP
	KUNIT_CASE(gup_special_pmd),
#endif
#ifdef CONFIG_HMM_MIRROR
	KUNIT_CASE(hmm_special_pte),
#ifdef CONFIG_ARCH_SUPPORTS_PMD_PFNMAP
	KUNIT_CASE(hmm_special_pmd),
#endif
#endif
	{}
};

static struct kunit_suite gup_test_suite = {
	.name = "gup",
	.suite_init = gup_suite_init,
	.suite_exit = gup_suite_exit,
	.test_cases = gup_test_cases,
};

kunit_test_suite(gup_test_suite);
