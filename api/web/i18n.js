/** Every word of the page, in both languages, and what puts them there. */

import { recall, remember } from "./store.js";

const number = (value) => new Intl.NumberFormat(locale()).format(value);
const seconds = (value) => value.toFixed(value < 10 ? 2 : 1);
const many = (count, one, other) => `${number(count)} ${count === 1 ? one : other}`;
const isSlides = (name) => /\.(pptx?|odp)$/i.test(name ?? "");
/** US dollars: "$0.0012"; "" where nothing is known, or nothing was to be paid. */
const dollars = (cost) => {
  if (!cost) return "";
  if (cost < 0.0001) return "< $0.0001";
  return `$${cost.toFixed(cost < 0.1 ? 4 : 2)}`;
};
/** The server names what asks for approval in English: "preset careful", "tag secret, internal". */
const why = (words, reason) => {
  const [, kind, names] = /^(preset|tag) (.+)$/.exec(reason) ?? [];
  return kind ? words.reasons[kind](names) : reason;
};
const approximately = ({ estimated }) => (estimated ? "~" : "");
const tokensIn = (usage) => approximately(usage) + number(usage.prompt_tokens);
const tokensOut = (usage) => approximately(usage) + number(usage.completion_tokens);
const join = (...parts) => parts.filter(Boolean).join(" · ");

/** Where a hit or citation stands: "Page 3 · Sheet A · Row 17 · Leave › Annual". */
const placeIn = (words, { page, sheet, row, heading, document: name }) =>
  join(
    page != null && words.page({ page, name }),
    sheet && words.sheet({ sheet }),
    row != null && words.row({ row }),
    heading?.join(" › "),
  );

const en = {
  product: "Knowledge",
  skip: "Skip to the question box",
  views: "Views",
  tab_chat: "Ask",
  tab_documents: "Documents",
  knowledge_base: "Knowledge base",
  model_extractive: "Quotes only, no chat model",
  new_chat: "New conversation",
  switch_language: "切换到中文",
  other_language: "中文",

  welcome_title: "Ask your documents",
  welcome_text:
    "Answers come only from the documents in this knowledge base. Each statement carries a numbered mark; open it to read the passage it rests on.",
  welcome_start: "Start from a document",
  welcome_empty: "There is nothing to ask about yet.",
  welcome_add: "Add documents",
  starter: ({ title }) => `What does “${title}” say about `,
  starter_title: ({ title }) => `Ask about ${title}`,

  question: "Your question",
  ask_placeholder: "Ask a question",
  send: "Ask",
  stop: "Stop",
  attach: "Attach an image",
  remove_image: ({ n }) => `Remove image ${n}`,
  image: ({ n }) => `Attached image ${n}`,
  no_vision: "The current model cannot read images.",
  not_an_image: ({ name }) => `${name} is not a PNG, JPEG, WebP or GIF image.`,
  choose_model: "Which model answers",
  model_automatic: "Automatic",
  model_choice: ({ name, open }) => (open ? `${name} (not available at present)` : name),
  choose_preset: "How to answer",
  preset_usual: "Default style",
  preset_choice: ({ name }) => en.presets[name] ?? name,
  presets: { assistant: "Assistant", customer_support: "Customer service", analyst: "Data analyst" },

  searching: "Searching the documents",
  reading: ({ count }) => `Reading ${many(count, "passage", "passages")}`,
  retried: ({ model, next_model: next, code, wait }) =>
    `${model} ${en.troubles[code] ?? "did not answer"}; asking ${next === model ? "again" : next}${
      wait >= 0.05 ? ` in ${wait.toFixed(1)} s` : ""
    }`,
  troubles: {
    model_auth: "refused access",
    model_request: "refused the request",
    context_too_long: "cannot take this much text",
    model_busy: "has too many requests",
    model_unavailable: "cannot be reached",
    model_timeout: "did not answer in time",
    circuit_open: "is not available at present",
    model_stream: "broke off",
  },
  asking: ({ model }) => `Asking ${model}`,
  going_on: "Going on with the result",
  call_search: ({ question }) => `Looked up again: ${question}`,
  call_calculate: ({ expression, result }) => `Calculated: ${expression}${result && ` = ${result}`}`,
  call_database: ({ database }) => `Queried the database${database ? ` ${database}` : ""}`,
  call_other: ({ name }) => `Used the tool ${name}`,
  call_failed: "did not work",
  call_given: "Given",
  call_result: "Result",
  held: "Waiting for approval",
  held_text: ({ reason }) =>
    `A person checks this answer before it is shown (${why(en, reason)}). It will appear here; you can go on asking meanwhile.`,
  reasons: {
    preset: (name) => `style: ${en.presets[name] ?? name}`,
    tag: (names) => `from documents tagged ${names}`,
  },
  held_id: ({ id }) => `Number of the review: ${id}`,
  approved: ({ note }) => (note ? `Approved by a person: ${note}` : "Approved by a person"),
  rejected: "Not released",
  rejected_text: ({ note }) => (note ? `The reviewer writes: ${note}` : "The reviewer did not release this answer."),
  answer_ready: "The answer is complete.",
  stopped: "You stopped this answer; it is not complete.",
  refusal: "Not in the documents",
  found: ({ count }) => `${many(count, "passage was", "passages were")} found`,
  closest: ({ count }) => `${many(count, "passage", "passages")} came closest, but did not answer the question`,
  sources: "Sources",
  source: ({ n, name, passage }) => `Source ${n}: ${join(name, en.place(passage))}`,
  place: (passage) => placeIn(en, passage),
  page: ({ page, name }) => (isSlides(name) ? `Slide ${page}` : `Page ${page}`),
  sheet: ({ sheet }) => `Sheet ${sheet}`,
  row: ({ row }) => `Row ${row}`,
  facts: ({ model, cached, cost, total }) =>
    join(
      model === "extractive" ? "quoted, no chat model" : model,
      cached ? "from the cache" : dollars(cost),
      !cached && total !== undefined && `${seconds(total)} s`,
    ),
  facts_more: ({ cached, cost, ...usage }) =>
    join(
      cached && "the first time",
      cached && dollars(cost),
      `${tokensIn(usage)} tokens read, ${tokensOut(usage)} written`,
    ),
  notice_extractive: "No chat model is configured: these are passages quoted from the documents.",
  copy: "Copy answer",
  copied: "Copied",
  copy_failed: "Copying was not allowed",
  anew: "Ask again without the cache",
  retry: "Try again",

  error_title: ({ code }) => en.errors[code] ?? "Something went wrong",
  answer_error_title: ({ code }) => en.errors[code] ?? "The answer could not be completed",
  errors: {
    connection: "The connection was lost",
    model_auth: "The chat model refused access",
    model_request: "The chat model refused the request",
    model_busy: "The chat model is busy",
    model_unavailable: "The chat model cannot be reached",
    model_timeout: "The chat model did not answer in time",
    circuit_open: "The chat model is not available at present",
    context_too_long: "This is too long for the chat model",
    model_format: "The chat model's reply cannot be read",
    budget: "The budget for chat models is used up",
    caller: "This is not allowed",
    config: "The server is not set up for this",
    input: "This cannot be asked as it is",
    model_stream: "The answer broke off",
    no_vision: "This model cannot read images",
    not_found: "Not found",
  },
  connection_message: "The server could not be reached, or the connection broke.",
  connection_hint: "Check that you are online, then try again.",
  http_message: ({ status }) => `The server answered with status ${status}.`,

  panel: "Document",
  panel_close: "Close",
  panel_loading: "Opening the document",
  panel_passage: "Go to the passage",
  panel_moved: "The document has changed since; the same passage now stands elsewhere.",
  panel_missing: "The document has changed since: this passage is no longer in it.",
  panel_empty: "This document has no text.",
  panel_more: ({ count }) => `Show more (${many(count, "character", "characters")} left)`,

  documents_title: "Documents",
  documents_count: ({ documents, chunks }) =>
    join(many(documents, "document", "documents"), many(chunks, "passage", "passages")),
  documents_empty: "No documents yet",
  documents_empty_text:
    "Drop files here, or choose them. PDF, Word, PowerPoint, Excel, Markdown, HTML, e-mail and plain text all work. You can then ask about them at once.",
  documents_filter: "Filter by name",
  documents_none: "No document has this in its name.",
  documents_rest: ({ count }) => `Show ${number(count)} more`,
  documents_drop: "You can also drop files anywhere on this page.",
  upload: "Add documents",
  uploading: ({ count }) => `Adding ${many(count, "file", "files")}; this can take a while`,
  upload_added: "added",
  upload_changed: "updated",
  upload_unchanged: "unchanged",
  upload_removed: "removed",
  upload_failed: "not added",
  upload_results: "Result of the upload",
  dismiss: "Dismiss",
  col_name: "Name",
  col_type: "Type",
  col_size: "Size",
  col_chunks: "Passages",
  col_updated: "Updated",
  delete: "Delete",
  delete_one: ({ name }) => `Delete ${name}`,
  delete_confirm: ({ name }) => `Delete “${name}” from the knowledge base? Answers can no longer use it.`,
  deleted: ({ name }) => `${name} was deleted.`,
  cancel: "Cancel",
};

const zh = {
  product: "知识库问答",
  skip: "跳到提问框",
  views: "视图",
  tab_chat: "提问",
  tab_documents: "文档",
  knowledge_base: "知识库",
  model_extractive: "仅摘录，未配置模型",
  new_chat: "新对话",
  switch_language: "Switch to English",
  other_language: "English",

  welcome_title: "向文档提问",
  welcome_text: "回答只依据本知识库中的文档。每个论断后都有编号，点开即可查看它所依据的原文。",
  welcome_start: "从一份文档开始",
  welcome_empty: "知识库里还没有文档。",
  welcome_add: "添加文档",
  starter: ({ title }) => `《${title}》中关于`,
  starter_title: ({ title }) => `就《${title}》提问`,

  question: "你的问题",
  ask_placeholder: "输入问题",
  send: "提问",
  stop: "停止",
  attach: "添加图片",
  remove_image: ({ n }) => `移除第 ${n} 张图片`,
  image: ({ n }) => `第 ${n} 张图片`,
  no_vision: "当前模型不能识别图片。",
  not_an_image: ({ name }) => `${name} 不是 PNG、JPEG、WebP 或 GIF 图片。`,
  choose_model: "由哪个模型回答",
  model_automatic: "自动选择模型",
  model_choice: ({ name, open }) => (open ? `${name}（暂不可用）` : name),
  choose_preset: "回答方式",
  preset_usual: "默认方式",
  preset_choice: ({ name }) => zh.presets[name] ?? name,
  presets: { assistant: "通用助手", customer_support: "客户服务", analyst: "数据分析" },

  searching: "正在检索文档",
  reading: ({ count }) => `正在阅读 ${number(count)} 段原文`,
  retried: ({ model, next_model: next, code, wait }) =>
    `${model} ${zh.troubles[code] ?? "没有回答"}，${wait >= 0.05 ? `${wait.toFixed(1)} 秒后` : ""}${
      next === model ? "重试" : `改问 ${next}`
    }`,
  troubles: {
    model_auth: "拒绝访问",
    model_request: "拒绝了请求",
    context_too_long: "容不下这么多文字",
    model_busy: "请求过多",
    model_unavailable: "无法连接",
    model_timeout: "未及时回答",
    circuit_open: "暂不可用",
    model_stream: "中途断开",
  },
  asking: ({ model }) => `正在询问 ${model}`,
  going_on: "正在根据结果继续",
  call_search: ({ question }) => `再次检索：${question}`,
  call_calculate: ({ expression, result }) => `计算：${expression}${result && ` = ${result}`}`,
  call_database: ({ database }) => `查询数据库${database ? ` ${database}` : ""}`,
  call_other: ({ name }) => `调用工具 ${name}`,
  call_failed: "未成功",
  call_given: "输入",
  call_result: "结果",
  held: "等待审核",
  held_text: ({ reason }) => `这条回答须经人工审核后显示（${why(zh, reason)}）。通过后会出现在这里，你可以先继续提问。`,
  reasons: {
    preset: (name) => `回答方式：${zh.presets[name] ?? name}`,
    tag: (names) => `文档标签：${names}`,
  },
  held_id: ({ id }) => `审核编号：${id}`,
  approved: ({ note }) => (note ? `已通过人工审核：${note}` : "已通过人工审核"),
  rejected: "未予发布",
  rejected_text: ({ note }) => (note ? `审核意见：${note}` : "审核人没有发布这条回答。"),
  answer_ready: "回答完毕。",
  stopped: "你停止了这次回答，内容不完整。",
  refusal: "文档中没有答案",
  found: ({ count }) => `找到 ${number(count)} 段资料`,
  closest: ({ count }) => `最接近的 ${number(count)} 段原文，但未能回答此问题`,
  sources: "出处",
  source: ({ n, name, passage }) => `出处 ${n}：${join(name, zh.place(passage))}`,
  place: (passage) => placeIn(zh, passage),
  page: ({ page, name }) => (isSlides(name) ? `第 ${page} 张` : `第 ${page} 页`),
  sheet: ({ sheet }) => `工作表 ${sheet}`,
  row: ({ row }) => `第 ${row} 行`,
  facts: ({ model, cached, cost, total }) =>
    join(
      model === "extractive" ? "原文摘录，未使用模型" : model,
      cached ? "来自缓存" : dollars(cost),
      !cached && total !== undefined && `${seconds(total)} 秒`,
    ),
  facts_more: ({ cached, cost, ...usage }) =>
    join(
      cached && "首次回答",
      cached && dollars(cost),
      `读入 ${tokensIn(usage)} tokens，写出 ${tokensOut(usage)} tokens`,
    ),
  notice_extractive: "尚未配置对话模型，回答由文档原文摘录而成。",
  copy: "复制回答",
  copied: "已复制",
  copy_failed: "浏览器不允许复制",
  anew: "不用缓存重新回答",
  retry: "重试",

  error_title: ({ code }) => zh.errors[code] ?? "出错了",
  answer_error_title: ({ code }) => zh.errors[code] ?? "回答未能完成",
  errors: {
    connection: "连接中断",
    model_auth: "对话模型拒绝访问",
    model_request: "对话模型拒绝了请求",
    model_busy: "对话模型繁忙",
    model_unavailable: "无法连接对话模型",
    model_timeout: "对话模型没有及时回答",
    circuit_open: "对话模型暂不可用",
    context_too_long: "内容超出对话模型的长度上限",
    model_format: "无法读懂对话模型的回复",
    budget: "对话模型的预算已用完",
    caller: "没有权限",
    config: "服务器的设置有误",
    input: "无法这样提问",
    model_stream: "回答中途断开",
    no_vision: "当前模型不能识别图片",
    not_found: "未找到",
  },
  connection_message: "无法连接服务器，或连接中断。",
  connection_hint: "请检查网络后重试。",
  http_message: ({ status }) => `服务器返回状态码 ${status}。`,

  panel: "文档",
  panel_close: "关闭",
  panel_loading: "正在打开文档",
  panel_passage: "回到引文",
  panel_moved: "文档在回答之后有改动，同一段原文已移到别处。",
  panel_missing: "文档在回答之后有改动，这段原文已不在其中。",
  panel_empty: "这份文档没有文字。",
  panel_more: ({ count }) => `显示更多（还有 ${number(count)} 字）`,

  documents_title: "文档",
  documents_count: ({ documents, chunks }) => join(`${number(documents)} 份文档`, `${number(chunks)} 个片段`),
  documents_empty: "还没有文档",
  documents_empty_text:
    "把文件拖到这里，或点击按钮选择。支持 PDF、Word、PowerPoint、Excel、Markdown、HTML、邮件与纯文本，添加后即可提问。",
  documents_filter: "按名称筛选",
  documents_none: "没有名称相符的文档。",
  documents_rest: ({ count }) => `再显示 ${number(count)} 份`,
  documents_drop: "也可以把文件拖到本页任意位置。",
  upload: "添加文档",
  uploading: ({ count }) => `正在添加 ${number(count)} 个文件，可能需要一些时间`,
  upload_added: "已添加",
  upload_changed: "已更新",
  upload_unchanged: "无变化",
  upload_removed: "已移除",
  upload_failed: "未添加",
  upload_results: "上传结果",
  dismiss: "知道了",
  col_name: "名称",
  col_type: "类型",
  col_size: "大小",
  col_chunks: "片段",
  col_updated: "更新时间",
  delete: "删除",
  delete_one: ({ name }) => `删除 ${name}`,
  delete_confirm: ({ name }) => `从知识库中删除“${name}”？删除后回答将不再引用它。`,
  deleted: ({ name }) => `已删除 ${name}。`,
  cancel: "取消",
};

const TABLES = { en, zh };
let language = initialLanguage();

function initialLanguage() {
  const stored = recall("language");
  if (stored in TABLES) return stored;
  return (navigator.language || "en").toLowerCase().startsWith("zh") ? "zh" : "en";
}

export const locale = () => (language === "zh" ? "zh-CN" : "en");

/** The text of `key` in the current language. */
export function t(key, params = {}) {
  const entry = TABLES[language][key];
  return typeof entry === "function" ? entry(params) : entry;
}

/** Whether `text` is that of `key`, in whichever language. */
export const isText = (key, text) => Object.values(TABLES).some((table) => table[key] === text);

const WHERE = { text: "data-i18n", label: "data-i18n-label", title: "data-i18n-title", placeholder: "data-i18n-placeholder" };
const paramsOf = new WeakMap();

/** Gives `node` the text of `key`, now and after every change of language. */
export function label(node, key, params = {}, where = "text") {
  node.setAttribute(WHERE[where], key);
  paramsOf.set(node, { ...paramsOf.get(node), [where]: params });
  put(node, where);
}

/** Takes the text that `label` gave away again. */
export function unlabel(node) {
  node.removeAttribute(WHERE.text);
  node.textContent = "";
}

function put(node, where) {
  const text = t(node.getAttribute(WHERE[where]), paramsOf.get(node)?.[where]);
  if (where === "text") node.textContent = text;
  else node.setAttribute(where === "label" ? "aria-label" : where, text);
}

/** Writes the current language into the whole page. */
export function applyLanguage() {
  document.documentElement.lang = locale();
  document.title = t("product");
  for (const [where, attribute] of Object.entries(WHERE)) {
    document.querySelectorAll(`[${attribute}]`).forEach((node) => put(node, where));
  }
}

/** Changes to the other language, remembers it, and fires "languagechanged" on the document. */
export function switchLanguage() {
  language = language === "zh" ? "en" : "zh";
  remember("language", language);
  applyLanguage();
  document.dispatchEvent(new CustomEvent("languagechanged"));
}

export const formatNumber = number;

export function formatSize(bytes) {
  const units = ["B", "KB", "MB", "GB"];
  let value = bytes;
  let unit = 0;
  while (value >= 1000 && unit < units.length - 1) {
    value /= 1000;
    unit += 1;
  }
  const digits = unit === 0 || value >= 100 ? 0 : 1;
  return `${new Intl.NumberFormat(locale(), { maximumFractionDigits: digits }).format(value)} ${units[unit]}`;
}

export function formatDate(iso) {
  const date = new Date(iso);
  if (Number.isNaN(date.getTime())) return "";
  return new Intl.DateTimeFormat(locale(), { dateStyle: "medium", timeStyle: "short" }).format(date);
}
