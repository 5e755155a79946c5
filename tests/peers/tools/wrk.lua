-- What wrk asks for, and how it checks it: a body must be the one of its length, which must be one of ours.
-- Arguments: number of responses until warm, kinds separated by commas.

local sizes = { 0, 1, 100, 1000, 10000, 100000 }
local slow_size = 90000
local expected, mix, threads = {}, {}, {}

local function body(size)
  local parts = {}
  for i = 0, size - 1 do parts[#parts + 1] = string.char((i * 31 + size) % 251) end
  return table.concat(parts)
end

function setup(thread) table.insert(threads, thread) end

function init(args)
  warm, kinds = tonumber(args[1]), args[2]
  count, bad, slow_at = 0, 0, nil
  first_bad = ""
  for _, size in ipairs(sizes) do
    expected[size] = body(size)
    for _, kind in ipairs({ "body", "chunked" }) do
      if kinds:find(kind) then table.insert(mix, "/" .. kind .. "/" .. size) end
    end
  end
  expected[slow_size] = body(slow_size)
  if kinds:find("status") then
    table.insert(mix, "/status/204")
    table.insert(mix, "/status/304")
  end
  next_request = 0
end

function delay() return math.random(0, 2) end

function request()
  if kinds:find("slow") and not slow_at and count >= warm then
    slow_at = count
    return wrk.format("GET", "/slow/" .. slow_size)
  end
  next_request = next_request % #mix + 1
  return wrk.format("GET", mix[next_request])
end

function response(status, headers, got)
  count = count + 1
  local right = (status == 200 and got == expected[#got]) or ((status == 204 or status == 304) and #got == 0)
  if not right then
    bad = bad + 1
    if bad == 1 then first_bad = status .. " with " .. #got .. " bytes" end
  end
  -- A few hundred responses after the slow one was asked for, it is in mid-body.
  local at = kinds:find("slow") and slow_at and slow_at + 300 or (not kinds:find("slow") and warm)
  if at and count == at then
    io.write("warm\n")
    io.flush()
  end
end

function done(summary, latency, requests)
  local bad_count, sample, errors = 0, "", summary.errors
  for _, thread in ipairs(threads) do
    bad_count = bad_count + thread:get("bad")
    sample = sample .. thread:get("first_bad")
  end
  local failed = errors.connect + errors.read + errors.write + errors.timeout
  local text = string.format("connect %d, read %d, write %d, timeout %d", errors.connect, errors.read,
    errors.write, errors.timeout)
  io.write(string.format('{"responses":%d,"bad":["%s"],"bad_count":%d,"errors":["%s"],"error_count":%d,'
    .. '"reconnects":0,"posts":{"sent":0,"answered":0}}\n', summary.requests - bad_count, sample, bad_count,
    failed > 0 and text or "", failed))
end
