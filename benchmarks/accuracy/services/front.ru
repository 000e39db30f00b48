# SPDX-License-Identifier: Apache-2.0
# For Puma, with LEAF and KEEP in the environment: calls by Net::HTTP, a kept-alive connection for each thread.
require 'net/http'

LEAF = ENV.fetch('LEAF').to_i
KEEP = ENV.fetch('KEEP') == 'keep'

def connection
  return Net::HTTP.start('127.0.0.1', LEAF, max_retries: 0) unless KEEP
  Thread.current[:leaf] ||= Net::HTTP.new('127.0.0.1', LEAF).tap do |http|
    http.keep_alive_timeout = 60
    http.max_retries = 0
    http.start
  end
end

def call_leaf(number, which, what = nil)
  path = "/leaf/#{number}/#{which}#{what && "?do=#{what}"}"
  headers = { 'x-truth' => "#{number}/#{which}" }
  headers['Connection'] = 'close' unless KEEP
  http = connection
  response = http.request(Net::HTTP::Get.new(path, headers))
  http.finish unless KEEP
  response.code.to_i
end

def work(number, shape)
  case shape
  when 'seq' then [call_leaf(number, 1), call_leaf(number, 2)]
  when 'par' then [1, 2].map { |which| Thread.new { call_leaf(number, which) } }.map(&:value)
  when 'retry'
    status = call_leaf(number, 1, 'fail')
    [status == 503 ? call_leaf(number, 1, 'fail') : status]
  else [call_leaf(number, 1, shape == 'slow' ? 'slow' : nil)]
  end
end

run(lambda do |env|
  number = env['PATH_INFO'].split('/').last
  done = work(number, env['QUERY_STRING'][/mode=(\w+)/, 1]).all?(200)
  [done ? 200 : 502, { 'content-type' => 'text/plain' }, ["#{number}\n"]]
end)
